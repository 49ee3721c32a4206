"""Study of how long the policy that serves takes to decide, with many waiting.

Depends on ``loadtest.policies``, ``loadtest.simulation``, ``reporting`` and ``serving.core``.
Begin with ``study``.
"""
