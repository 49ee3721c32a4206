"""The scheduler: the deadline policy, its plan, and what it spends slack and engine time on.

    deadline_policy -> decision -> edf_plan             a plan in which everybody is in time
                          |------> depth_selection      what is done with the time that is left
                          |------> overload, fair_part  whom to run for where time does not suffice
                          '------> answers_in_hand      a cheap answer first, then a better one
    waiting_batches, planned_batch, ways_in             what a plan is made of
    opportunity_cost, depth_price                       what a second of the engine is worth
    path_costs, path_times, paths, unit_starts          what ways through the model take

Begin with ``deadline_policy``, then ``decision``. Depends on no package but the one that it is in.
"""
