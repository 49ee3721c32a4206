"""Load generation for Punctual and its peers, simulation of its policies, and studies of both.

    workload             arrivals, budgets and images of requests
    load                 clients that send them, and what came of it
    baselines, policies  policies of others, and the names of all
    simulation           executors and fleets in virtual time
    servers, peers       what studies start, and other frameworks around the same model
    environment          facts about the machine
    studies, cli         what is found out with these, by command; results/ has what was found

Depends on ``serving.core``, ``serving.artifacts`` and ``reporting``. Begin with ``load.open_loop``
or ``simulation.simulator``.
"""
