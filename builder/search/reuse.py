"""Children that other searches have evaluated already, which are not evaluated again.

What a child's accuracy is depends on its table, the seed that it is trained with and the evaluator
alone. So a search may take it from the journal of another one, whatever that searched by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from builder.config.pyramid_graphs import Row
from builder.search.evaluators.base import Evaluation, Evaluator, Job
from builder.search.journal import OK, Child, JournalError, read_journal
from builder.search.pool import JobResult, Pool

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


def reusing(
    known: Known, pool: Callable[[Evaluator, int], Pool]
) -> Callable[[Evaluator, int], Pool]:
    """Return what opens a pool like ``pool``, to which jobs that are ``known`` never come."""
    return lambda evaluator, workers: _Reusing(known, pool(evaluator, workers))


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

    def __enter__(self) -> Self:
        self._others.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._others.__exit__(kind, error, traceback)


def _result(job: Job, child: Child) -> JobResult:
    """Return the result that a job has in a journal, with who made it, and how long it took."""
    where: dict[str, Any] = dict(child.made_by)
    seconds = float(where.pop("seconds"))
    return JobResult(job, Evaluation(child.aps), seconds, where)
