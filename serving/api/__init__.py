"""The HTTP surface; the only place that knows status codes."""
