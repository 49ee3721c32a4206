"""Searches that take no time, for tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.config.configuration import Config
from builder.search.controls import reference
from builder.search.evaluators.analytic import AnalyticEvaluator
from builder.search.evaluators.base import Evaluation, Evaluator, Job
from builder.search.journal import Child
from builder.search.latency_table import synthetic_table
from builder.search.rewards import REWARDS
from builder.search.run import Search
from builder.search.searchers import SEARCHERS
from builder.search.space import SPACES
from tests.builder.tiny import TINY

PROXY = Config(TINY.detector, replace(TINY.train, validation_split="val"))
"""What children train, where they do."""


def analytic_search(
    searcher: str = "evolution",
    seed: int = 0,
    space: str = "nas-fpn",
    reward: str = "anytime",
    evaluator: Evaluator | None = None,
) -> Search:
    """A search on the analytic evaluator, or on another one."""
    of_space = SPACES[space]
    table = synthetic_table()
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


@dataclass(frozen=True)
class Deadly(AnalyticEvaluator):
    """Its process dies over the second child once, and over one of them always."""

    folder: Path = Path()
    fatal: int = 0

    def evaluate(self, job: Job) -> Evaluation:
        mark = self.folder / str(job.index)
        if job.index == self.fatal or (job.index == 1 and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(job)


def same_but_for_machine(one: Sequence[Child], other: Sequence[Child]) -> bool:
    """Whether two journals are the same in all but seconds, machine and versions."""
    nowhere = [[replace(child, made_by={}) for child in children] for children in (one, other)]
    return nowhere[0] == nowhere[1]


@dataclass(frozen=True)
class Neighbours(AnalyticEvaluator):
    """The process of child 1 always dies, first beside that of child 0, which takes long."""

    folder: Path = Path()

    def evaluate(self, job: Job) -> Evaluation:
        started, done = self.folder / "started", self.folder / "done"
        if job.index == 1:
            while not started.exists():
                time.sleep(0.001)
            if (self.folder / "died").exists() and not done.exists():
                (self.folder / "together").touch()
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if job.index == 0 and not started.exists():
            started.touch()
            signal.pause()
        if job.index == 0:
            done.touch()
        return super().evaluate(job)
