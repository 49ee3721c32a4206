"""What a child is worth, from the accuracies of its exits and the times to them.

``ap``        The AP of the last exit: that of Ghiasi et al. (NAS-FPN, 2019).
``anytime``   The area under the staircase of accuracy against time: the mean over a fixed grid of
              deadlines of the AP of the best exit that is reached by then, 0 before the first.
``in-time``   The accuracy of what is answered in time by the policy that serves, under load, in the
              simulator (``builder.search.in_time``).

Deadlines, rates and budgets are absolute: they are set once, by a reference pyramid. Relative to
each child they would excuse a slow one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from builder.config.pyramid_graphs import Graph
from builder.search.latency_table import LatencyTable

NUM_DEADLINES = 64
GRID = (0.9, 1.2)
"""First deadline in times to the reference's first exit, and last in times to its last one."""


class Reward(Protocol):
    """A function that says what a child is worth, the higher the better."""

    def describe(self) -> dict[str, Any]:
        """Return what it depends on beside accuracies and times, as JSON types."""
        ...

    def __call__(self, aps: Sequence[float], times: Sequence[float]) -> float:
        """Return the worth of a child, from AP and time of each exit."""
        ...


class LastAp:
    """A reward that is the AP of the last exit."""

    def describe(self) -> dict[str, Any]:
        """Return its name: nothing else matters."""
        return {"name": "ap"}

    def __call__(self, aps: Sequence[float], times: Sequence[float]) -> float:
        """Return the AP of the last exit, whatever it takes."""
        return aps[-1]


class Anytime:
    """A reward that is the mean AP over a grid of deadlines."""

    def __init__(self, deadlines: Sequence[float]) -> None:
        self._deadlines = np.asarray(deadlines)

    @classmethod
    def around(cls, times: Sequence[float]) -> Anytime:
        """Return one with deadlines about a reference's exits, even in their logarithm."""
        return cls(np.geomspace(GRID[0] * times[0], GRID[1] * times[-1], NUM_DEADLINES).tolist())

    def describe(self) -> dict[str, Any]:
        """Return the ends of the grid."""
        ends = [float(self._deadlines[0]), float(self._deadlines[-1])]
        return {"name": "anytime", "deadlines": [*ends, len(self._deadlines)]}

    def __call__(self, aps: Sequence[float], times: Sequence[float]) -> float:
        """Return the area under the staircase, as a share of the grid."""
        best = np.maximum.accumulate(np.asarray(aps, dtype=np.float64))
        reached = np.searchsorted(np.asarray(times), self._deadlines, side="right")
        return float(np.concatenate([[0.0], best])[reached].mean())


def _anytime(table: LatencyTable, reference: Graph, num_exits: int) -> Reward:
    return Anytime.around(table.exits(reference, num_exits))


def _in_time(table: LatencyTable, reference: Graph, num_exits: int) -> Reward:
    from builder.search.in_time import InTime  # noqa: PLC0415  brings the simulator along

    return InTime(table.exits(reference, num_exits), table.stem, table.head)


REWARDS: dict[str, Callable[[LatencyTable, Graph, int], Reward]] = {
    "ap": lambda *_: LastAp(),
    "anytime": _anytime,
    "in-time": _in_time,
}
"""Name -> the reward for a latency table, with deadlines by a reference and its number of exits."""
