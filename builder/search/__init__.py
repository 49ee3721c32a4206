"""Architecture search for the pyramids of the neck.

    run          the loop: ask for a batch, evaluate it, write it down, tell
    space, canonical, controls, features   what is searched, and when two tables are one network
    searchers/   what proposes tables       evaluators/  what says how accurate they are
    rewards, in_time, latency_table   what accuracies and times are worth
    stack_latency, stack_rounds   what stacks of graphs take, measured
    pool, ray_pool, ray_tune   who evaluates, here or on many machines
    journal      what a search is, on disk; ``report``, ``benchmark``, ``signal``, ``contest`` and
                 ``proxy_agreement`` read it
    shared_weights   one set of weights for all tables of a space
    regression, statistics, drawing   what these use

Depends on ``builder.config``, ``builder.data``, ``builder.measuring``, ``builder.modeling``,
``builder.training``, ``loadtest.policies``, ``loadtest.simulation``, ``loadtest.workload``,
``reporting``, ``serving.artifacts`` and ``serving.core``. Begin with ``run``.
"""
