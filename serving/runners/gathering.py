"""What runners have in common that copy rows of batches: how cohorts split and join."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from serving.runners.checks import Rows, check_merge, check_select
from serving.runners.rows import every_row

Batch = TypeVar("Batch", bound=Rows)


class GatheringRunner(ABC, Generic[Batch]):
    """The part of a ``SegmentRunner`` that is the same wherever rows are copied by ``_gather``."""

    batch_sizes: tuple[int, ...]
    """Batch sizes that it runs, smallest first."""
    _closed: bool

    def select(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """Return a copy of these rows of features: once, when a cohort splits."""
        self._check_open()
        check_select(batch, rows, self.batch_sizes[-1])
        return self._gather([(batch, row) for row in rows])

    def merge(self, batches: Sequence[Batch]) -> Batch:
        """Return a copy of all rows of features: once, when cohorts join."""
        self._check_open()
        check_merge(batches, self.batch_sizes[-1])
        return self._gather(every_row(batches))

    @abstractmethod
    def _gather(self, picked: Sequence[tuple[Batch, int]]) -> Batch:
        """Return a copy of these rows of features, each as (batch, row)."""

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the runner is closed")
