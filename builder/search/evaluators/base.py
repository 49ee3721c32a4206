"""What every evaluator takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from builder.config.pyramid_graphs import Graph


@dataclass(frozen=True, slots=True)
class Job:
    """One child to be evaluated."""

    index: int
    graph: Graph
    key: str
    seed: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Outcome of a job."""

    aps: tuple[float, ...]
    """APs by exit; none if the job failed."""
    problem: str = ""
    """Reason why the job failed, if it did."""


class Evaluator(Protocol):
    """Something that tells the accuracy of a table, a function of table and seed alone."""

    @property
    def is_light(self) -> bool:
        """Whether a child takes less than it takes to start a process."""
        ...

    @property
    def num_exits(self) -> int:
        """Number of exits of every child."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what its results depend on beside table and seed, as JSON types."""
        ...

    def evaluate(self, job: Job) -> Evaluation:
        """Evaluate a child. It may have been begun before, by a process that was killed."""
        ...

    def forget(self, index: int) -> None:
        """Remove what was kept to go on with a child: it is in the journal."""
        ...
