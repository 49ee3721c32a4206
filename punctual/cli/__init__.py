"""The commands ``punctual detect`` and ``punctual watch``: the client in a terminal.

Depends on ``serving.core``, and on the client that it is part of. Begin with ``detect``.
"""
