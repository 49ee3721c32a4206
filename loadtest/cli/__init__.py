"""The load tests' commands of ``punctual``, one file each.

Depends on ``loadtest.environment``, ``loadtest.load``, ``loadtest.policies``,
``loadtest.servers``, ``loadtest.simulation``, ``loadtest.studies``, ``loadtest.workload``,
``reporting``, ``serving.artifacts`` and ``serving.core``. Begin with ``registry``.
"""
