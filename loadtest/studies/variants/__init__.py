"""The gateway with different settings: what a request costs, and what load makes of that.

Depends on ``loadtest.environment``, ``loadtest.load``, ``loadtest.servers``,
``loadtest.workload``, ``reporting``, ``serving.artifacts`` and ``serving.core``. Begin with
``study``.
"""
