"""Children of other journals are not evaluated again, and the journal is the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.search.evaluators.analytic import AnalyticEvaluator
from builder.search.evaluators.base import Evaluation, Evaluator, Job
from builder.search.journal import JOURNAL, JournalError, read_journal
from builder.search.pool import OpenPool, open_pool
from builder.search.reuse import read_known, reusing
from builder.search.run import run
from tests.builder.search.children import analytic_search, same_but_for_machine


@dataclass(frozen=True)
class Counted(AnalyticEvaluator):
    """It remembers which children it was asked for."""

    asked: list[int] = field(default_factory=list, compare=False)

    def evaluate(self, job: Job) -> Evaluation:
        self.asked.append(job.index)
        return super().evaluate(job)


def pool_with(journal: Path, evaluator: Evaluator) -> OpenPool:
    return reusing(read_known([journal], evaluator), open_pool)


def test_what_another_search_has_evaluated_is_not_evaluated_again(tmp_path: Path) -> None:
    """Evolution begins with the random graphs that random search has as well."""
    run(analytic_search("random"), tmp_path / "random", 20)
    journal = tmp_path / "random" / JOURNAL
    evaluator = Counted()
    search = analytic_search("evolution", evaluator=evaluator)
    reused = run(search, tmp_path / "reused", 60, pool=pool_with(journal, evaluator))
    assert evaluator.asked
    assert min(evaluator.asked) >= 20
    assert len(evaluator.asked) <= 40
    assert same_but_for_machine(reused, run(analytic_search(), tmp_path / "whole", 60))
    assert reused[0].made_by == read_journal(journal).children[0].made_by


def test_another_seed_of_the_training_is_evaluated(tmp_path: Path) -> None:
    run(analytic_search("random"), tmp_path / "random", 5)
    known = read_known([tmp_path / "random" / JOURNAL], AnalyticEvaluator())
    assert {seed for _, seed in known} == {0}


def test_the_journal_of_another_evaluator_is_refused(tmp_path: Path) -> None:
    run(analytic_search("random"), tmp_path, 5)
    other = AnalyticEvaluator(noise=0.5)
    with pytest.raises(JournalError, match="of another evaluator: what differs is noise"):
        read_known([tmp_path / JOURNAL], other)
