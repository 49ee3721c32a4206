"""HTML pages that fetch nothing, and their charts, for the reports of builder and load tests."""
