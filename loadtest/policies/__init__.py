"""The names by which simulator and load tests know the scheduling policies.

Depends on ``loadtest.baselines`` and ``serving.core``. Begin with ``named``.
"""
