"""Study of the policy that serves against the best fixed operating point, over many ladders.

Depends on ``loadtest.simulation``, ``loadtest.workload``, ``reporting`` and ``serving.core``.
Begin with ``study``.
"""
