"""Runtimes that run segments, one file for each, all behind ``core.ports.SegmentRunner``."""
