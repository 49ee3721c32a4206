"""What a child is worth to those who ask under load: the accuracy of what the policy that serves
answers in time, in the simulator.

Rates are in requests per unit of time and budgets in that unit, both set once by a reference: as
multiples of the child's own they would give a slow one fewer requests and more time for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from loadtest.policies.named import parse_policy
from loadtest.simulation.profiles import one_sided_quantiles
from loadtest.simulation.simulator import ServiceTimes, SimulatedOutcome, SimulatedServer
from loadtest.workload.arrivals import parse_arrivals
from serving.core.ladder import Ladder
from serving.core.latency import LatencyModel
from serving.core.latency_profile import LatencyProfile
from serving.core.request import Request
from serving.core.segment import STEM, every_segment

LOADS = (0.3, 0.6, 0.9)
"""Loads, as shares of what the reference could answer at exit 1, one at a time."""
ARRIVALS = ("poisson", "gamma:4")
BUDGETS = (1.2, 2.0, 4.0)
"""Budgets in times of the reference at full depth, equally often."""
NUM_REQUESTS = 2000
"""Expected number of requests, at each load and each kind of arrivals."""
JITTER = 0.03
POLICY = "deadline"
MAX_COHORTS = 4
"""Bound on cohorts in flight: the default of the server's setting of that name."""
BATCH_SIZES, BATCH_FIXED, FUSED = (1, 2, 4), 0.2, 0.93
"""Batches, and what batching and fusing save: those of ``cpu-lite`` in ``loadtest/profiles``."""


class InTime:
    """The mean accuracy in time over loads and arrivals, the same ones for all children."""

    def __init__(
        self,
        reference: Sequence[float],
        stem: float,
        head: float,
        loads: Sequence[float] = LOADS,
        arrivals: Sequence[str] = ARRIVALS,
    ) -> None:
        """Set rates and budgets by the times to each exit of the reference.

        They are milliseconds, or what stands for them.
        """
        self._stem_s, self._head_s = stem / 1e3, head / 1e3
        self._capacity_hz = 1e3 / reference[0]
        self._budgets_s = np.array(BUDGETS) * reference[-1] / 1e3
        self._loads, self._arrivals = loads, arrivals
        self._requests = {
            f"{load:g}, {kind}": self._draw(load * self._capacity_hz, kind, seed)
            for seed, (load, kind) in enumerate((a, b) for a in loads for b in arrivals)
        }

    def _draw(self, rate_hz: float, arrivals: str, seed: int) -> list[tuple[float, float]]:
        """Return arrival and deadline of each request."""
        random = np.random.default_rng(seed)
        offsets_s = parse_arrivals(arrivals).offsets_s(rate_hz, NUM_REQUESTS / rate_hz, random)
        deadlines_s = offsets_s + random.choice(self._budgets_s, size=len(offsets_s))
        return list(zip(offsets_s.tolist(), deadlines_s.tolist(), strict=True))

    def describe(self) -> dict[str, Any]:
        """Return rates and budgets."""
        return {
            "name": "in-time",
            "policy": POLICY,
            "rates_hz": [round(load * self._capacity_hz, 6) for load in self._loads],
            "arrivals": list(self._arrivals),
            "budgets_s": self._budgets_s.round(9).tolist(),
            "requests": NUM_REQUESTS,
        }

    def __call__(self, aps: Sequence[float], times: Sequence[float]) -> float:
        """Return the mean over loads and arrivals of AP, 0 for what is late or shed."""
        return float(np.mean(list(self.by_condition(aps, times).values())))

    def by_condition(self, aps: Sequence[float], times: Sequence[float]) -> dict[str, float]:
        """Return the same for each load and kind of arrivals, by a text that names them."""
        profile = self._profile(times)
        return {
            name: self._simulate(requests, aps, profile, seed)
            for seed, (name, requests) in enumerate(self._requests.items())
        }

    def _profile(self, times: Sequence[float]) -> LatencyProfile:
        """Return the times of every segment of a child, at every batch size."""
        stacks_s = np.diff([1e3 * (self._stem_s + self._head_s), *times]) / 1e3
        table = {}
        for segment in every_segment(len(times)):
            one_s = 0.0
            for part in segment.parts:
                if part.head:
                    one_s += self._head_s
                else:
                    one_s += self._stem_s if part == STEM else stacks_s[part.stop - 1]
            one_s *= FUSED if len(segment.parts) > 1 else 1.0
            for size in BATCH_SIZES:
                p50_s = float(one_s * (BATCH_FIXED + (1 - BATCH_FIXED) * size))
                table[segment, size] = one_sided_quantiles(p50_s, JITTER)
        return LatencyProfile("searched", "a latency table", "", 1, table)

    @staticmethod
    def _simulate(
        requests: Sequence[tuple[float, float]],
        aps: Sequence[float],
        profile: LatencyProfile,
        seed: int,
    ) -> float:
        outcomes: list[SimulatedOutcome] = []
        segments = {segment for segment, _ in profile.table}
        server = SimulatedServer(
            parse_policy(POLICY)(segments, Ladder.of_exits(aps), BATCH_SIZES, MAX_COHORTS),
            LatencyModel(profile),
            ServiceTimes(profile, JITTER, np.random.default_rng(seed)),
            outcomes.append,
        )
        for number, (arrival_s, deadline_s) in enumerate(requests):
            server.advance(arrival_s)
            server.submit(Request(number, arrival_s, deadline_s, 1, len(aps)))
        server.advance(math.inf)
        worth = [aps[outcome.depth - 1] for outcome in outcomes if outcome.in_time]
        return sum(worth) / len(requests)
