"""Searches that take no time, for tests."""

from __future__ import annotations

from builder.search.controls import reference
from builder.search.evaluators.analytic import AnalyticEvaluator
from builder.search.evaluators.base import Evaluator
from builder.search.latency_table import made_up
from builder.search.rewards import REWARDS
from builder.search.run import Search
from builder.search.searchers import SEARCHERS
from builder.search.space import SPACES


def analytic_search(
    searcher: str = "evolution",
    seed: int = 0,
    space: str = "nas-fpn",
    reward: str = "anytime",
    evaluator: Evaluator | None = None,
) -> Search:
    """A search on the analytic evaluator, or on another one."""
    of_space = SPACES[space]
    table = made_up(of_space.levels)
    evaluator = evaluator or AnalyticEvaluator()
    return Search(
        space=space,
        searcher=searcher,
        seed=seed,
        create=lambda: SEARCHERS[searcher](of_space, seed),
        evaluator=evaluator,
        reward=REWARDS[reward](table, reference(of_space.levels), evaluator.num_exits),
        table=table,
    )
