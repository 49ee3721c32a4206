"""A policy that has answers in hand, and a runner of a model at two sizes for it."""

from __future__ import annotations

from typing import Any

from serving.core import segment as segments
from serving.core.policy import Conclude, Decision, Run, Snapshot
from serving.core.segment import Segment
from tests.serving.world import NUM_EXITS, FakeClock, FakeRunner, cost_s


class Upgrades:
    """Exit 1 of the smaller size for whoever waits, one by one; then, unless somebody waits, each
    exit of the larger size for whoever is held, up to ``deepest``."""

    def __init__(self, deepest: int = 1) -> None:
        self._deepest = deepest

    def decide(self, snapshot: Snapshot, latency: object) -> Decision:
        if snapshot.waiting:
            return Run(segments.fused_exit(1), snapshot.waiting[:1], None, hold=True)
        for held in snapshot.held:
            if held.model == 0 or held.depth < self._deepest:
                depth = held.depth + 1 if held.model else 1
                segment = segments.fused_exit(depth).of(1)
                return Run(segment, (held.request,), None, hold=depth < self._deepest)
        return Conclude(tuple(held.request for held in snapshot.held))


def two_sizes(**how: Any) -> FakeRunner:
    """A runner of a model at two sizes, of which the larger takes three times as long."""

    def cost(segment: Segment, batch: int) -> float:
        return cost_s(segment, batch) * (1 + 2 * segment.model)

    return FakeRunner(FakeClock(), cost, exits=(NUM_EXITS, NUM_EXITS), **how)


SMALL_S, LARGE_S = cost_s(segments.fused_exit(1)), 3 * cost_s(segments.fused_exit(1))
SMALL, LARGE = (0, 1), (1, 1)
