"""Timed runs of everything that a runner can run, which warming up and profiling share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from serving.core import segment as segments
from serving.core.latency import LatencyModel
from serving.core.ports import Clock, Image, Pause, SegmentRunner, no_pause
from serving.core.segment import Segment


def time_every_segment(
    runner: SegmentRunner, image: Image, num_exits: int, clock: Clock
) -> Iterator[tuple[Segment, int, float]]:
    """Run each segment, of each model, once at each batch size; yield how long each took.

    Every run is on what the segments before it made of ``image``. Yields (segment, batch size,
    seconds).
    """
    models = sorted({segment.model for segment in runner.segments})
    for model, size in product(models, runner.batch_sizes):
        yield from _time_model(runner, image, num_exits, clock, model, size)


def _time_model(
    runner: SegmentRunner, image: Image, num_exits: int, clock: Clock, model: int, size: int
) -> Iterator[tuple[Segment, int, float]]:
    """Run each segment of one model once, at one batch size, as ``time_every_segment`` does."""
    batch = runner.load([image] * size)
    for fused in segments.fused_segments(num_exits):
        segment = fused.of(model)
        if segment in runner.segments:
            yield segment, size, _boxes(runner, segment, batch, clock)
    for unit in (segments.STEM, *map(segments.stack, range(1, num_exits + 1))):
        segment = unit.of(model)
        if segment not in runner.segments:
            break
        started_s = clock()
        features = runner.run(segment, batch)
        seconds = clock() - started_s
        runner.release(batch)
        batch = features
        yield segment, size, seconds
        head = segments.head(segment.stop).of(model)
        if head in runner.segments:
            yield head, size, _boxes(runner, head, batch, clock)
    runner.release(batch)


def _boxes(runner: SegmentRunner, segment: Segment, batch: Any, clock: Clock) -> float:
    """Return the seconds of a run whose output nobody needs."""
    started_s = clock()
    boxes = runner.run(segment, batch)
    seconds = clock() - started_s
    runner.release(boxes)
    return seconds


def warm_up(
    runner: SegmentRunner,
    latency: LatencyModel,
    image: Image,
    num_exits: int,
    clock: Clock,
    rounds: int,
    pause: Pause = no_pause,
) -> None:
    """Run every segment ``rounds`` times at every batch size, and let ``latency`` learn from it.

    So the first request meets a warm engine and true predictions. One round before that is not
    learnt from: memory is allocated in it. ``pause`` is called before each run of a segment but the
    first of a round.
    """
    for number in range(rounds + 1):
        for segment, batch, seconds in time_every_segment(runner, image, num_exits, clock):
            pause()
            if number > 0:
                latency.observe(segment, batch, seconds)
