"""How clients of other kinds fare: tiles of large images, Frigate's plugin, gRPC beside HTTP.

Depends on ``loadtest.environment``, ``loadtest.load``, ``loadtest.policies``, ``loadtest.servers``,
``loadtest.workload``, ``reporting`` and ``serving.core``. Begin with ``protocols``.
"""
