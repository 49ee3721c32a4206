"""Accuracy, latency and cost of models, and comparisons of trainings."""
