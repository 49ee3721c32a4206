"""The commands ``punctual detect`` and ``punctual watch``: the client in a terminal."""
