"""Cameras in virtual time: the engine alone, with streams and without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.policies.named import FIXED, parse_policy
from loadtest.simulation.profiles import ModelProfile
from loadtest.simulation.simulator import (
    MAX_WAITING,
    ServiceTimes,
    SimulatedOutcome,
    SimulatedServer,
    simulate,
)
from loadtest.simulation.study import MAX_COHORTS
from loadtest.studies.cameras.frames import End, Outcome, RunFigures, Shot, figures, shots
from serving.core.ladder import Ladder, PointId
from serving.core.latency import LatencyModel
from serving.core.request import Request

JITTER = 0.05
"""Jitter of run times, as a share."""
PATIENCE_S = 10.0
"""Budget of a frame where nothing is given up: more than a full queue takes."""


MANY_WAITING = 256
"""Number of frames that may wait: one of each camera."""


@dataclass(frozen=True, slots=True)
class System:
    """One way to serve cameras."""

    name: str
    has_streams: bool
    is_patient: bool = False
    """Whether frames are served in the order in which they come, late ones too, at one point."""
    max_waiting: int = MANY_WAITING
    """Number of frames that may wait, as the server's setting of that name."""

    def policy(self, ladder: Ladder, best: PointId) -> str:
        """Return the name of its policy, on a model whose most accurate point is ``best``."""
        return f"{FIXED}:{ladder.label(best)}" if self.is_patient else "deadline"


STREAMS, DEADLINES, FIFO = SYSTEMS = (
    System("streams", has_streams=True),
    System("deadlines alone", has_streams=False),
    System("first in, first out", has_streams=False, is_patient=True, max_waiting=MAX_WAITING),
)
"""What is compared: the server with streams; the same without, where every frame is a request by
itself; and one operating point, the most accurate, for all frames in the order in which they
come. In a longer queue they would only be older."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated, or sent."""

    loads: tuple[float, ...]
    """Frames a second, in multiples of what the most accurate point could answer."""
    rate_hz: float
    """Frames a second of each camera."""
    budget_s: float
    duration_s: float
    seed: int

    def num_cameras(self, load: float, capacity_hz: float) -> int:
        """Return the number of cameras that make a load, at least one."""
        return max(1, round(load * capacity_hz / self.rate_hz))


def run(profile: ModelProfile, plan: Plan, load: float, system: System) -> RunFigures:
    """Simulate one system at one load."""
    num_cameras = plan.num_cameras(load, 1.0 / profile.full_depth_s)
    drawing, service = np.random.default_rng((plan.seed, num_cameras)).spawn(2)
    taken = shots(num_cameras, plan.rate_hz, plan.duration_s, drawing)
    budget_s = PATIENCE_S if system.is_patient else plan.budget_s
    requests = [
        Request(
            id,
            shot.taken_s,
            shot.taken_s + budget_s,
            1,
            profile.ladder.num_exits,
            stream=str(shot.camera) if system.has_streams else "",
        )
        for id, shot in enumerate(taken)
    ]
    ended: list[SimulatedOutcome] = []
    policy = parse_policy(system.policy(profile.ladder, profile.best_point))
    simulate(
        requests,
        SimulatedServer(
            policy(profile.segments, profile.ladder, profile.batch_sizes, MAX_COHORTS),
            LatencyModel(profile.latency),
            ServiceTimes(profile.latency, JITTER, service),
            ended.append,
            max_waiting=system.max_waiting,
        ),
    )
    outcomes = [_outcome(each, taken[each.request.id], plan.budget_s, profile) for each in ended]
    return figures(system.name, load, outcomes, num_cameras, plan.duration_s)


def _outcome(
    ended: SimulatedOutcome, shot: Shot, budget_s: float, profile: ModelProfile
) -> Outcome:
    ladder = profile.ladder
    if ended.depth:
        late = ended.finished_s > shot.taken_s + budget_s
        return Outcome(
            shot,
            End.LATE if late else End.IN_TIME,
            ended.finished_s,
            "+".join(map(ladder.label, ended.points)),
            ladder.answer_ap(ended.points),
        )
    if ended.superseded:
        return Outcome(shot, End.SUPERSEDED, ended.finished_s)
    begun = ended.reason is None or ended.reason.startswith("evicted")
    return Outcome(shot, End.LATE if begun else End.REFUSED, ended.finished_s)


def run_all(
    profile: ModelProfile, plan: Plan, systems: Sequence[System] = SYSTEMS
) -> Iterator[RunFigures]:
    """Yield the figures of every system at every load, under the same arrivals."""
    for load in plan.loads:
        for system in systems:
            yield run(profile, plan, load, system)
