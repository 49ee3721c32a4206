"""Facts about the machine that a study runs on: times of segments, and spreads of figures.

Depends on ``loadtest.servers``, ``reporting``, ``serving.artifacts`` and ``serving.core``. Begin
with ``segment_times``.
"""
