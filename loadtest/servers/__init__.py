"""Servers that studies start for themselves: gateways, Triton, peers, Prometheus.

Depends on ``serving.core``. Begin with ``processes``.
"""
