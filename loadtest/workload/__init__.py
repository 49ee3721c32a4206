"""The requests of a load test: arrivals, budgets and images.

Depends on ``serving.core`` and ``serving.imaging``. Begin with ``arrivals``.
"""
