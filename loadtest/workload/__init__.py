"""The requests of a load test: arrivals, budgets and images."""
