"""Study of Punctual and its peers on this machine, under the same requests.

    study       the runs                  subject, systems   the model, and the servers of it
    candidates  fixed operating points that are worth servers of their own, by ``simulation``
    reference   what boxes are compared with
    tables, report, plots, simulation_tables   what is said of them

Depends on ``loadtest.environment``, ``loadtest.load``, ``loadtest.policies``,
``loadtest.servers``, ``loadtest.simulation``, ``loadtest.workload``, ``reporting``,
``serving.artifacts`` and ``serving.core``. Begin with ``study``.
"""
