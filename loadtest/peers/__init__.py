"""Other serving frameworks around the same detector, each a program for its own environment.

Depends on ``serving.artifacts``, ``serving.core``, ``serving.execution``, ``serving.imaging``,
``serving.models`` and ``serving.runners``. Begin with ``detector``, which both have in common.
"""
