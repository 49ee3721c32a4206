"""Offline tools: train a detector, export its segments, measure them and write the repository."""
