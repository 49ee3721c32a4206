"""The batches on a device: the features of each cohort, as a runner keeps them.

What lies here follows what ``EngineState`` says; a batch is released as soon as nobody needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from serving.core.engine_state import CohortChange
from serving.core.policy import Cohort
from serving.core.ports import SegmentRunner
from serving.core.request import Request


class CohortBatches:
    """The features of the cohorts of one executor, which alone may call this."""

    def __init__(self, runner: SegmentRunner) -> None:
        self._runner = runner
        self._by_cohort: dict[int, Any] = {}

    def put(self, cohort: int, batch: Any) -> None:
        """Keep ``batch`` as the features of a cohort, by its id."""
        self._by_cohort[cohort] = batch

    def of(self, cohort: Cohort, requests: Sequence[Request]) -> Any:
        """Return a batch of these requests of ``cohort``: its own, or a new one of some rows."""
        batch = self._by_cohort[cohort.id]
        if len(requests) == len(cohort.requests):
            return batch
        rows = [cohort.requests.index(request) for request in requests]
        return self._runner.select(batch, rows)

    def release(self, batch: Any, cohort: int | None) -> None:
        """Release what ``of`` returned for the cohort with this id, unless it is its own.

        Without a cohort, it is a batch of images, which is nobody's.
        """
        if cohort is None or batch is not self._by_cohort[cohort]:
            self._runner.release(batch)

    def merged(self, cohorts: Sequence[int]) -> Any:
        """Return one batch of the features of these cohorts, in their order."""
        return self._runner.merge([self._by_cohort[cohort] for cohort in cohorts])

    def replace(self, cohorts: Sequence[int], batch: Any) -> None:
        """Release the features of these cohorts, and keep ``batch`` as those of the first."""
        for cohort in cohorts:
            self._runner.release(self._by_cohort.pop(cohort))
        self._by_cohort[cohorts[0]] = batch

    def keep(self, change: CohortChange) -> Exception | None:
        """Keep of a cohort only the rows that are left.

        Returns what went wrong, if anything; then its features are gone.
        """
        batch = self._by_cohort.pop(change.cohort)
        failure = None
        if change.rows:
            try:
                self._by_cohort[change.cohort] = self._runner.select(batch, change.rows)
            except Exception as error:  # whatever a runtime raises is for the caller to tell
                failure = error
        self._runner.release(batch)
        return failure

    def clear(self) -> None:
        """Release everything, as far as the runner lets itself be asked."""
        for batch in self._by_cohort.values():
            with suppress(Exception):
                self._runner.release(batch)
        self._by_cohort.clear()
