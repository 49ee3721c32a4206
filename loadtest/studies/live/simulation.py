"""Simulation of a live run: the same requests at the same instants, by what a simulator knows.

    engine     the engine alone: segments as they were measured with nothing else running
    gateway    budgets shorter by what the gateway keeps of them for decoding and sending
    shared     and segments slower by what client and gateway take of the engine's cores

The step from one to the next says what makes live figures differ from simulated ones; what remains
after the last is unexplained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from loadtest.environment.segment_times import jitter_of, slowed
from loadtest.load.open_loop import Schedule
from loadtest.policies.named import parse_policy
from loadtest.simulation.profiles import ModelProfile
from loadtest.simulation.simulator import ServiceTimes, SimulatedOutcome, SimulatedServer, simulate
from loadtest.simulation.study import MAX_COHORTS
from serving.core.latency import LatencyModel
from serving.core.request import Request

STEPS = ("engine", "gateway", "shared")


@dataclass(frozen=True, slots=True)
class Simulated:
    """The simulator's figures for a live run, of all requests that were to be sent."""

    attainment: float
    in_time_accuracy: float
    mean_depth: float | None
    """Mean exit depth of the answers in time; None if there are none."""


@dataclass(frozen=True)
class ReplaySettings:
    """The settings for replaying a live run: the machine, as the simulator knows it."""

    profile: ModelProfile
    reserve_s: float
    """Seconds that the gateway keeps of every budget."""
    slowdown: float
    """Factor by which client and gateway at work beside it make a segment slower."""

    def steps(self) -> Mapping[str, ReplaySettings]:
        """Return step -> these settings without and with what the live machine has."""
        steps = (
            replace(self, reserve_s=0.0, slowdown=1.0),
            replace(self, slowdown=1.0),
            self,
        )
        return dict(zip(STEPS, steps, strict=True))


def simulate_schedule(
    schedule: Schedule, policy: str, replay: ReplaySettings, seed: int
) -> Simulated:
    """Simulate ``schedule`` on one executor with the policy called ``policy``."""
    profile = replay.profile
    latency = slowed(profile.latency, replay.slowdown)
    deepest = profile.ladder.num_exits
    requests = [
        Request(number, offset_s, offset_s + budget_s - replay.reserve_s, 1, deepest)
        for number, (offset_s, budget_s, _) in enumerate(schedule)
    ]
    outcomes: list[SimulatedOutcome] = []
    server = SimulatedServer(
        parse_policy(policy)(profile.segments, profile.ladder, profile.batch_sizes, MAX_COHORTS),
        LatencyModel(latency),
        ServiceTimes(latency, jitter_of(latency), np.random.default_rng(seed)),
        outcomes.append,
    )
    simulate(requests, server)
    in_time = [outcome for outcome in outcomes if outcome.in_time]
    return Simulated(
        attainment=len(in_time) / len(requests),
        in_time_accuracy=sum(profile.ladder.answer_ap(outcome.points) for outcome in in_time)
        / len(requests),
        mean_depth=sum(outcome.depth for outcome in in_time) / len(in_time) if in_time else None,
    )
