"""HTTP interface of the server; the only place that knows status codes."""
