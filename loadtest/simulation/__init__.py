"""Simulation of executors and fleets in virtual time, and studies of policies by it.

    simulator   one executor: the engine's state and a policy, run times drawn
    fleet, autoscaling, recovery, shares   several, more or fewer, hung, or shared
    profiles    what segments take      oracle   what no policy could exceed
    study, tables, report, plots           many runs, and what is said of them

Depends on ``loadtest.baselines``, ``loadtest.policies``, ``loadtest.workload``, ``reporting`` and
``serving.core``. Begin with ``simulator``.
"""
