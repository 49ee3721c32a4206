"""The pure core: standard library and numpy only; time and randomness come in as arguments.

    the model      segment, catalog, model_entry, family, ladder, pareto_front, letterbox, merging,
                   class_names, fact_checks
    a request      request (the five ways it can end), errors, streams, tiling
    scheduling     policy (what it sees and answers), latency, latency_profile, quantiles, demand,
                   engine_state, scheduling/
    who asks       principals, fair_queue, fair_shares, token_bucket, promises
    changing models   model_versions, replacement, agreement, output_check, precision_choice
    the outside    ports (what is asked of it), observing (what it is told), command_errors

Depends on no other package. Begin with ``segment``, ``request`` and ``policy``.
"""
