"""The pure core: standard library and numpy only; time and randomness come in as arguments."""
