"""Cameras on one server: how old what each camera knows is, by how many there are.

Depends on ``loadtest.load``, ``loadtest.policies``, ``loadtest.servers``,
``loadtest.simulation``, ``loadtest.workload``, ``reporting`` and ``serving.core``. Begin with
``frames``, then ``live``.
"""
