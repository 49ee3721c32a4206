"""Load tests of a server over HTTP: clients in open and closed loops, outcomes and reports.

    open_loop, closed_loop, loadgen   when requests are sent
    client, target                    how, and to what
    outcomes, accounting, served_accuracy   what came of each
    summary, report, page, sweep      what is said of all

Depends on ``loadtest.environment``, ``loadtest.servers``, ``loadtest.workload``, ``reporting`` and
``serving.core``. Begin with ``open_loop``.
"""
