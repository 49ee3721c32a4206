"""The commands of the client in a terminal, ``punctual detect``."""
