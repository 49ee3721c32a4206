"""HTML pages that fetch nothing, and their charts: what the reports of builder and load tests are
made of."""
