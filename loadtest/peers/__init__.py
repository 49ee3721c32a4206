"""Other serving frameworks around the same detector, each a program for its own environment."""
