"""One timed run of everything that a runner can run: what warming up and profiling share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from serving.core import segment as segments
from serving.core.ports import Clock, Image, SegmentRunner
from serving.core.segment import Segment


def time_every_segment(
    runner: SegmentRunner, image: Image, num_exits: int, clock: Clock
) -> Iterator[tuple[Segment, int, float]]:
    """Run each segment once at each batch size, on what the segments before it made of ``image``;
    yields (segment, batch size, seconds)."""
    for size in runner.batch_sizes:
        images = runner.load([image] * size)
        for segment in segments.fused_segments(num_exits):
            if segment in runner.segments:
                output, seconds = _timed(runner, segment, images, clock)
                runner.release(output)
                yield segment, size, seconds
        features, seconds = _timed(runner, segments.STEM, images, clock)
        runner.release(images)
        yield segments.STEM, size, seconds
        for depth in range(1, num_exits + 1):
            deeper, seconds = _timed(runner, segments.stack(depth), features, clock)
            runner.release(features)
            features = deeper
            yield segments.stack(depth), size, seconds
            boxes, seconds = _timed(runner, segments.head(depth), features, clock)
            runner.release(boxes)
            yield segments.head(depth), size, seconds
        runner.release(features)


def _timed(runner: SegmentRunner, segment: Segment, batch: Any, clock: Clock) -> tuple[Any, float]:
    started_s = clock()
    output = runner.run(segment, batch)
    return output, clock() - started_s
