"""Study of what Triton costs a request, and what it serves.

Depends on ``loadtest.environment``, ``loadtest.servers``, ``reporting``, ``serving.artifacts`` and
``serving.core``. Begin with ``study``.
"""
