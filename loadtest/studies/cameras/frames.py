"""Frames of cameras: when they are taken, how each ended, and how old what a camera knows is.

    age of a camera = now - when the newest frame was taken whose answer is there

A frame whose answer comes late still tells something, so late answers count for the age; they are
counted as late all the same.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID_S = 0.002
"""Seconds between two instants at which ages are looked at."""
JITTER = 0.1
"""Most share of its period by which a frame is early or late."""


class End(enum.StrEnum):
    """The ways in which a frame ends."""

    IN_TIME = "in time"
    LATE = "late"
    """Begun, and not answered by its deadline."""
    SUPERSEDED = "superseded"
    REFUSED = "refused"
    """Refused before it was begun."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Shot:
    """One frame that is to be sent."""

    camera: int
    taken_s: float
    """Seconds after the start of the run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one frame ended."""

    shot: Shot
    end: End
    ended_s: float
    """Seconds after the start of the run at which its sender knew."""
    point: str | None = None
    """Name of the operating point that answered."""
    ap: float = 0.0
    """Expected AP of the answer."""


def shots(
    num_cameras: int, rate_hz: float, duration_s: float, rng: np.random.Generator
) -> list[Shot]:
    """Return the frames that cameras take in ``duration_s`` seconds, in order of time.

    Each camera takes one a period, with a phase of its own and up to ``JITTER`` of the period
    earlier or later.
    """
    period_s = 1.0 / rate_hz
    drawn = [
        Shot(camera, taken_s)
        for camera, phase in enumerate(rng.uniform(JITTER, 1 - JITTER, num_cameras))
        for taken_s in _times(phase, period_s, duration_s, rng)
    ]
    return sorted(drawn, key=lambda shot: shot.taken_s)


def _times(
    phase: float, period_s: float, duration_s: float, rng: np.random.Generator
) -> list[float]:
    count = int(duration_s / period_s)
    wobbles = rng.uniform(-JITTER, JITTER, count)
    times: list[float] = ((np.arange(count) + phase + wobbles) * period_s).tolist()
    return times


def ages_s(outcomes: Sequence[Outcome], until_s: float) -> NDArray[np.float64]:
    """Return the ages in seconds of what one camera knows, (instants,), ``GRID_S`` apart.

    They are from when its first frame was taken until ``until_s``; before its first answer, what it
    knows is as old as that time.
    """
    first_s = min(outcome.shot.taken_s for outcome in outcomes)
    answered = sorted((o.ended_s, o.shot.taken_s) for o in outcomes if o.point is not None)
    ended_s = np.array([ended for ended, _ in answered])
    newest_s = np.maximum.accumulate(np.array([first_s, *(taken for _, taken in answered)]))
    instants_s = np.arange(first_s, until_s, GRID_S)
    ages: NDArray[np.float64] = instants_s - newest_s[np.searchsorted(ended_s, instants_s, "right")]
    return ages


@dataclass(frozen=True)
class CameraFigures:
    """The figures of one camera in one run."""

    ends: Mapping[str, int]
    """Number of its frames by how they ended."""
    age_p50_s: float
    age_p99_s: float


@dataclass(frozen=True)
class RunFigures:
    """The figures of one run of one system."""

    system: str
    load: float
    """Frames a second, in multiples of what the most accurate point could answer."""
    num_cameras: int
    cameras: tuple[CameraFigures, ...]
    age_p50_s: float
    """Of all cameras together, as are the others."""
    age_p99_s: float
    mean_ap: float
    """Mean expected AP of the answers in time; 0 if there are none."""
    points: Mapping[str, int]
    """Number of answers in time by operating point."""

    def num(self, end: End) -> int:
        """Return the number of frames that ended so."""
        return sum(camera.ends.get(end, 0) for camera in self.cameras)

    @property
    def num_frames(self) -> int:
        """Return the number of all frames."""
        return sum(sum(camera.ends.values()) for camera in self.cameras)

    @property
    def late_share(self) -> float:
        """Return the share of late frames among those that were begun."""
        late = self.num(End.LATE)
        return late / max(1, late + self.num(End.IN_TIME))

    @property
    def worst_age_p99_s(self) -> float:
        """Return the 99th percentile of the age, of the camera for which it is largest."""
        return max(camera.age_p99_s for camera in self.cameras)

    @property
    def answers(self) -> tuple[int, int]:
        """Return the fewest and the most answers in time that a camera got."""
        counts = [camera.ends.get(End.IN_TIME, 0) for camera in self.cameras]
        return min(counts), max(counts)


def figures(
    system: str, load: float, outcomes: Sequence[Outcome], num_cameras: int, until_s: float
) -> RunFigures:
    """Return the figures of a run, whose ages are looked at until ``until_s``."""
    of_camera: list[list[Outcome]] = [[] for _ in range(num_cameras)]
    for outcome in outcomes:
        of_camera[outcome.shot.camera].append(outcome)
    ages = [ages_s(each, until_s) for each in of_camera]
    in_time = [outcome for outcome in outcomes if outcome.end is End.IN_TIME]
    return RunFigures(
        system,
        load,
        num_cameras,
        tuple(
            CameraFigures(dict(Counter(str(o.end) for o in each)), *_quantiles(age))
            for each, age in zip(of_camera, ages, strict=True)
        ),
        *_quantiles(np.concatenate(ages)),
        float(np.mean([outcome.ap for outcome in in_time])) if in_time else 0.0,
        dict(Counter(str(outcome.point) for outcome in in_time)),
    )


def _quantiles(ages: NDArray[np.float64]) -> tuple[float, float]:
    middle, high = np.quantile(ages, (0.5, 0.99)).tolist()
    return middle, high
