"""Study of the signals that a fleet can be scaled by, in simulation.

Depends on ``loadtest.simulation`` and ``reporting``. Begin with ``study``.
"""
