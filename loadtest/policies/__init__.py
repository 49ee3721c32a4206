"""The names by which simulator and load tests know the scheduling policies."""
