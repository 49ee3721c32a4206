"""Facts about the machine that a study runs on: times of segments, and spreads of figures."""
