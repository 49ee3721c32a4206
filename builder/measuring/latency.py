"""Latency, measured through the runner that serves.

Rounds are interleaved: each one runs every segment once at every batch size, so that a busy moment
of the machine falls on all alike. A/B figures are ratios within a round, with their spread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from reporting.machine import machine
from serving.core import segment as segments
from serving.core.family import Family
from serving.core.ladder import PointId
from serving.core.latency import LatencyModel
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.policy import Cohort, Snapshot
from serving.core.ports import Clock, SegmentRunner
from serving.core.quantiles import quantile
from serving.core.request import Request
from serving.core.scheduling.deadline_policy import DeadlinePolicy
from serving.core.scheduling.path_costs import Costs
from serving.core.scheduling.paths import paths_of
from serving.core.segment import Segment
from serving.core.timing import time_every_segment

Key = TypeVar("Key")

WARM_UP_ROUNDS = 5
"""Number of rounds before those that are timed, in which what is measured settles."""
WAITING, IN_FLIGHT = 64, 3
"""Number of requests that wait, and of cohorts in flight, while a decision is timed."""
DECISIONS = 2000
"""Number of decisions that are timed: a machine is slow for longer than one takes."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One operating point's latency in unit segments, one after the other, and as the fused one.

    Medians in seconds; the ratio unit / fused is taken round by round.
    """

    point: PointId
    unit_s: float
    fused_s: float
    ratio_p10: float
    ratio_p50: float
    ratio_p90: float


def _noise(family: Family) -> Any:
    shape = (family.input_height, family.input_width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def measure_segments(
    runner: SegmentRunner, family: Family, rounds: int, clock: Clock, date: str, threads: int
) -> tuple[LatencyProfile, ...]:
    """Return quantiles of every segment at every batch size over ``rounds`` rounds.

    There is a profile for each input size of ``family``. What brings an image to a smaller size
    than the largest counts to the first segment.
    """
    seconds: dict[tuple[Segment, int], list[float]] = defaultdict(list)
    image = _noise(family)
    for round_index in tqdm(range(-WARM_UP_ROUNDS, rounds), desc="segments", unit="round"):
        for segment, batch, taken_s in time_every_segment(runner, image, family.num_exits, clock):
            if round_index >= 0:
                seconds[segment, batch].append(taken_s)
    tables: list[dict[tuple[Segment, int], Quantiles]] = [{} for _ in family.catalogs]
    for (segment, batch), values in seconds.items():
        quantiles = Quantiles(*(quantile(values, q) for q in (0.5, 0.9, 0.99)))
        tables[segment.model][segment.of(0), batch] = quantiles
    about = (runner.runtime, machine(), date, threads)
    return tuple(LatencyProfile(*about, table) for table in tables)


@dataclass(frozen=True, slots=True)
class RunnerComparison:
    """One path from images to boxes, measured on two runners.

    Medians in seconds; the ratio of this runner to the other is taken round by round.
    """

    point: PointId
    fused: bool
    size: int
    """Number of images in the batch."""
    this_s: float
    other_s: float
    ratio_p10: float
    ratio_p50: float
    ratio_p90: float


def compare_runners(
    this: SegmentRunner,
    other: SegmentRunner,
    family: Family,
    points: Sequence[PointId],
    rounds: int,
    clock: Clock,
) -> list[RunnerComparison]:
    """Measure every path to ``points`` on both runners in turn.

    Paths are in unit segments and fused, as far as there are such, at every batch size.
    """
    loaded = {
        size: [(runner, runner.load([_noise(family)] * size)) for runner in (this, other)]
        for size in this.batch_sizes
    }
    runs = {
        (size, fused, point): [
            partial(_timed, runner, images, _path(point, fused), clock)
            for runner, images in loaded[size]
        ]
        for size in this.batch_sizes
        for fused in (False, True)
        for point in points
        if this.segments.issuperset(_path(point, fused))
    }
    measured = _in_turn(runs, rounds, "this against other")
    for runner, images in (each for both in loaded.values() for each in both):
        runner.release(images)
    return [
        RunnerComparison(point, fused, size, *medians)
        for (size, fused, point), medians in measured.items()
    ]


def _path(point: PointId, fused: bool) -> tuple[Segment, ...]:
    """Return the segments from an image to the boxes of an operating point."""
    model, depth = point
    path = (segments.fused_exit(depth),) if fused else segments.unit_path(depth)
    return tuple(segment.of(model) for segment in path)


def _timed(runner: SegmentRunner, images: Any, path: Sequence[Segment], clock: Clock) -> float:
    """Return the seconds from ``images`` to the boxes at the end of ``path``."""
    started_s = clock()
    batch = images
    for segment in path:
        output = runner.run(segment, batch)
        if batch is not images:
            runner.release(batch)
        batch = output
    runner.release(batch)
    return clock() - started_s


def _in_turn(
    runs: Mapping[Key, Sequence[Callable[[], float]]], rounds: int, description: str
) -> dict[Key, tuple[float, float, float, float, float]]:
    """Run both of each pair of ``runs``, which give their seconds, in every round.

    Returns what ``_medians`` says of them.
    """
    pairs: dict[Key, list[tuple[float, float]]] = {key: [] for key in runs}
    for round_index in tqdm(range(-WARM_UP_ROUNDS, rounds), desc=description, unit="round"):
        for key, (first, second) in runs.items():
            pair = first(), second()
            if round_index >= 0:
                pairs[key].append(pair)
    return {key: _medians(measured) for key, measured in pairs.items()}


def _medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float, float, float]:
    """Return the medians of both, and percentiles of the first over the second.

    The percentiles are the 10th, 50th and 90th.
    """
    ratios = [first_s / second_s for first_s, second_s in pairs]
    first_s, second_s = (quantile(values, 0.5) for values in zip(*pairs, strict=True))
    p10, p50, p90 = (quantile(ratios, q) for q in (0.1, 0.5, 0.9))
    return first_s, second_s, p10, p50, p90


def compare_paths(
    runner: SegmentRunner,
    family: Family,
    points: Sequence[PointId],
    rounds: int,
    clock: Clock,
    size: int = 1,
) -> list[Comparison]:
    """Compare unit segments with the fused segment, from ``size`` images to boxes.

    All points take part in every round.
    """
    images = runner.load([_noise(family)] * size)
    runs = {
        point: [
            partial(_timed, runner, images, _path(point, fused), clock) for fused in (False, True)
        ]
        for point in points
    }
    measured = _in_turn(runs, rounds, "unit against fused")
    runner.release(images)
    return [Comparison(point, *medians) for point, medians in measured.items()]


def measure_decision(family: Family, profile: LatencyProfile, rounds: int, clock: Clock) -> float:
    """Return the median seconds of one decision in a long queue.

    ``WAITING`` requests wait and, where there are unit segments, a few are in flight, all with room
    to go deeper.
    """
    latency = LatencyModel(profile)
    batch_sizes = sorted({batch for _, batch in profile.table})
    first, *others = family.accuracies
    available = {segment for segment, _ in profile.table}
    policy = DeadlinePolicy(available, first, batch_sizes, IN_FLIGHT + 1, others)
    each_s = Costs(latency, paths_of(available)[0]).typical_path(1)
    in_flight = IN_FLIGHT if segments.STEM in available else 0
    requests = [
        Request(number, 0.0, (4 + number) * 2 * each_s, 1, family.num_exits)
        for number in range(WAITING + in_flight)
    ]
    cohorts = tuple(
        Cohort(number, 1, (request,)) for number, request in enumerate(requests[:in_flight])
    )
    snapshot = Snapshot(0.0, tuple(requests[in_flight:]), cohorts)
    seconds = []
    for _ in range(rounds):
        started_s = clock()
        policy.decide(snapshot, latency)
        seconds.append(clock() - started_s)
    return quantile(seconds, 0.5)
