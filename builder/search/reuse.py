"""Children that other searches have evaluated already, which are not evaluated again.

What a child's accuracy is depends on its table, the seed that it is trained with and the evaluator
alone. So a search may take it from the journal of another one, whatever that searched by.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.config.pyramid_graphs import Row
from builder.search.evaluators.base import Evaluation, Evaluator, Job
from builder.search.journal import OK, Child, JournalError, read_journal
from builder.search.pool import JobResult, OpenPool, Pool

Known = Mapping[tuple[tuple[Row, ...], int], Child]
"""(rows of a table, seed that it was trained with) -> the child."""


def read_known(paths: Sequence[Path], evaluator: Evaluator) -> Known:
    """Return the children of journals that ``evaluator`` need not evaluate again.

    Children that failed are left out. Raises JournalError for a journal of another evaluator, or
    of the same one on other data, and what ``read_journal`` raises.
    """
    own = json.loads(json.dumps(evaluator.describe()))
    known = {}
    for path in paths:
        journal = read_journal(path)
        theirs = journal.search["evaluator"]
        if theirs != own:
            names = [name for name in {**own, **theirs} if theirs.get(name) != own.get(name)]
            raise JournalError(
                f"{path} is of another evaluator: what differs is {', '.join(names)}"
            )
        for child in journal.children:
            if child.status == OK and child.training_seed is not None:
                known[child.rows, child.training_seed] = child
    return known


def reusing(known: Known, pool: OpenPool) -> OpenPool:
    """Return what opens a pool like ``pool``, to which jobs that are ``known`` never come."""

    @contextmanager
    def open_both(evaluator: Evaluator, workers: int) -> Iterator[Pool]:
        with pool(evaluator, workers) as others:
            yield _Reusing(known, others)

    return open_both


class _Reusing:
    """A pool with the results of known children before those of the others."""

    def __init__(self, known: Known, others: Pool) -> None:
        self._known, self._others = known, others

    def run(self, jobs: Sequence[Job]) -> Iterator[JobResult]:
        """Yield the results: what is known at once, then the others as they end."""
        left = []
        for job in jobs:
            child = self._known.get((job.graph.rows, job.seed))
            if child is None:
                left.append(job)
            else:
                yield _result(job, child)
        if left:
            yield from self._others.run(left)


def _result(job: Job, child: Child) -> JobResult:
    """Return the result that a job has in a journal, with who made it, and how long it took."""
    where: dict[str, Any] = dict(child.made_by)
    seconds = float(where.pop("seconds"))
    return JobResult(job, Evaluation(child.aps), seconds, where)
