"""Configurations: detectors, training recipes and pyramid graphs as data, and their rules."""
