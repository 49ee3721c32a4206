"""What the server tells of itself: metrics, traces, and a log of decisions.

Depends on ``serving.core``. Begin with ``metrics``.
"""
