"""Several senders on one engine in virtual time: what each gets of it, with shares and without.

A victim sends little, and somebody beside it sends as much as it likes of what may hurt most. Both
are simulated twice: as two principals, among whom engine time is shared, and as one, so that
deadlines alone decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.policies.named import deadline
from loadtest.simulation.profiles import ModelProfile
from loadtest.simulation.simulator import (
    ServiceTimes,
    SimulatedOutcome,
    SimulatedServer,
    simulate,
)
from loadtest.simulation.study import MAX_COHORTS
from reporting.markdown import table
from serving.core.latency import LatencyModel
from serving.core.request import Request

JITTER = 0.05
"""Jitter of run times, as a share."""
VICTIM_HZ = 1.0
VICTIM_BUDGET = 4.0
"""Budget of the victim, in multiples of what an idle engine takes at full depth."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Somebody who sends requests at the instants of a Poisson process, all alike."""

    name: str
    rate_hz: float
    budget_s: float
    min_depth: int = 1
    streaming: bool = False
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Served:
    """What one sender got."""

    sender: Sender
    num_requests: int
    num_in_time: int
    sum_ap: float
    """Sum of the AP of its answers in time."""

    @property
    def share_in_time(self) -> float:
        """Share of its requests that were answered in time."""
        return self.num_in_time / max(1, self.num_requests)

    @property
    def mean_ap(self) -> float:
        """Mean AP of its answers in time."""
        return self.sum_ap / max(1, self.num_in_time)


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to send more than one's share."""

    name: str
    load: float
    """Requests, in multiples of what the engine can answer at the quickest operating point."""
    budget: float
    """Budget in multiples of what an idle engine takes at full depth."""
    deepest: bool = False
    """Whether nothing but the deepest exit is accepted, and every exit on the way wanted."""


ATTACKS = (
    Attack("nobody", 0.0, 4.0),
    Attack("as many as can be answered", 1.0, 4.0),
    Attack("four times as many", 4.0, 4.0),
    Attack("the same, in a hurry", 4.0, 1.2),
    Attack("the same, with all the time there is", 4.0, 100.0),
    Attack("half as many, the deepest exit, streaming", 0.5, 4.0, deepest=True),
)
"""What the victim is beside."""


def serve(
    profile: ModelProfile,
    senders: Sequence[Sender],
    duration_s: float,
    seed: int,
    *,
    shared: bool = True,
) -> list[Served]:
    """Return what each sender gets in ``duration_s`` seconds of arrivals.

    Unless ``shared``, they are one principal.
    """
    *rngs, service_rng = np.random.default_rng(seed).spawn(len(senders) + 1)
    drawn: list[tuple[float, Sender]] = []
    for sender, rng in zip(senders, rngs, strict=True):
        count = int(rng.poisson(sender.rate_hz * duration_s))
        drawn += [(offset_s, sender) for offset_s in rng.uniform(0.0, duration_s, count).tolist()]
    drawn.sort(key=lambda each: each[0])
    requests = [
        Request(
            id,
            arrival_s,
            arrival_s + sender.budget_s,
            sender.min_depth,
            profile.ladder.num_exits,
            sender.streaming,
            sender.name if shared else "",
            sender.share if shared else 1.0,
        )
        for id, (arrival_s, sender) in enumerate(drawn)
    ]
    outcomes: list[SimulatedOutcome] = []
    server = SimulatedServer(
        deadline(profile.segments, profile.ladder, profile.batch_sizes, MAX_COHORTS),
        LatencyModel(profile.latency),
        ServiceTimes(profile.latency, JITTER, service_rng),
        outcomes.append,
    )
    simulate(requests, server)
    return [
        _served(sender, [o for o in outcomes if drawn[o.request.id][1] is sender], profile)
        for sender in senders
    ]


def _served(sender: Sender, outcomes: Sequence[SimulatedOutcome], profile: ModelProfile) -> Served:
    in_time = [outcome for outcome in outcomes if outcome.in_time]
    sum_ap = sum(profile.ladder.answer_ap(outcome.points) for outcome in in_time)
    return Served(sender, len(outcomes), len(in_time), sum_ap)


@dataclass(frozen=True, slots=True)
class AttackResult:
    """What victim and attacker got in one attack, on one engine."""

    profile: str
    attack: Attack
    duration_s: float
    shared: tuple[Served, Served]
    """Victim and attacker, as two principals."""
    unshared: tuple[Served, Served]
    """The same, as one."""


def attack(profile: ModelProfile, how: Attack, duration_s: float, seed: int) -> AttackResult:
    """Simulate one attack, with shares and without, under the same arrivals."""
    full_s = profile.full_depth_s
    depth = profile.ladder.num_exits if how.deepest else 1
    senders = (
        Sender("victim", VICTIM_HZ, VICTIM_BUDGET * full_s),
        Sender("attacker", how.load * profile.capacity_hz, how.budget * full_s, depth, how.deepest),
    )
    results = []
    for shared in (True, False):
        victim, attacker = serve(profile, senders, duration_s, seed, shared=shared)
        results.append((victim, attacker))
    return AttackResult(profile.name, how, duration_s, *results)


def markdown(results: Sequence[AttackResult]) -> Iterator[str]:
    """Yield the lines of a table of attacks."""

    def in_time(served: Served) -> str:
        return f"{served.share_in_time:.1%}"

    def per_second(result: AttackResult, served: Served) -> str:
        return f"{served.num_in_time / result.duration_s:.1f}"

    yield from table(
        (
            ("engine", lambda r: r.profile),
            ("beside the victim", lambda r: r.attack.name),
            ("victim's requests", lambda r: str(r.shared[0].num_requests)),
            ("in time, deadlines alone", lambda r: in_time(r.unshared[0])),
            ("with shares", lambda r: in_time(r.shared[0])),
            ("mean AP, deadlines alone", lambda r: f"{r.unshared[0].mean_ap:.3f}"),
            ("with shares", lambda r: f"{r.shared[0].mean_ap:.3f}"),
            ("attacker's answers a second, alone", lambda r: per_second(r, r.unshared[1])),
            ("with shares", lambda r: per_second(r, r.shared[1])),
        ),
        results,
    )
