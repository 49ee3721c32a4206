"""Drills of a real gateway: rolling restarts under load, and alerts that must fire.

Depends on ``loadtest.load``, ``loadtest.servers``, ``loadtest.workload`` and ``reporting``. Begin
with ``restart``.
"""
