"""The study in which a gateway serves for hours what clients send, and must not grow by it.

Depends on ``loadtest.load``, ``loadtest.servers``, ``loadtest.workload`` and ``reporting``. Begin
with ``study``.
"""
