"""A runner for several models on one device: one runner of each, in one frame for images and boxes.

Who loads images does not say which model will run on them. They are kept as they are, and loaded
into the model's own runner when its first segment runs, in the size that it takes; its boxes are
mapped back to the common frame, so that nobody else sees more than one size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.core import segment as segments
from serving.core.family import Family
from serving.core.letterbox import Letterbox, ModelInput
from serving.core.ports import Image, Pause, SegmentRunner, no_pause
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.runners.checks import check_images, check_segment

Refit = Callable[[Image, ModelInput], Image]
"""Function of an image in the common frame to the image as a smaller model takes it."""


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """A batch of images in the common frame, for any model."""

    rows: tuple[Image, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch of features or detections of one model."""

    model: int
    """Number of the model."""
    inner: tuple[Any, ...]
    """Batches as that model's runner has them: one, or as many as it needs for all detections."""


@dataclass(frozen=True)
class _Member:
    """A model's runner, and how the common frame lies in its input.

    ``placement`` is None if the two are the same.
    """

    runner: SegmentRunner
    input: ModelInput
    placement: Letterbox | None


class FamilyRunner:
    """A ``SegmentRunner`` over ``runners``, one of each model of ``family``, in its order.

    It closes them.
    """

    def __init__(self, family: Family, runners: Sequence[SegmentRunner], refit: Refit) -> None:
        self._refit = refit
        self._image_shape = (family.input_height, family.input_width, 3)
        self._members = tuple(
            _Member(runner, catalog.input, _placement(family.input, catalog.input))
            for runner, catalog in zip(runners, family.catalogs, strict=True)
        )
        self.runtime = runners[0].runtime
        self.segments = frozenset(
            segment.of(model) for model, runner in enumerate(runners) for segment in runner.segments
        )
        self.batch_sizes = _batch_sizes(runners)

    def load(self, images: Sequence[Image]) -> Images:
        """Return a batch of images, not copied.

        They must stay as they are until it is released.
        """
        check_images(images, self._image_shape, self.batch_sizes[-1])
        return Images(tuple(images))

    def run(self, segment: Segment, batch: Images | Batch) -> Batch:
        """Run one model's segment.

        On images this includes bringing them to the model's size and loading them.
        """
        if isinstance(batch, Images):
            check_segment(segment, segments.IMAGE, self.segments)
            return self._begin(segment, batch)
        if segment.model != batch.model:
            raise ValueError(f"{segment.name} does not take a batch of model {batch.model}")
        runner = self._members[batch.model].runner
        (inner,) = batch.inner
        return Batch(batch.model, (runner.run(segment.of(0), inner),))

    def _begin(self, segment: Segment, batch: Images) -> Batch:
        """Load images into the model's runner, and run its first segment on them.

        What takes fewer rows at once than the others runs on so many at a time.
        """
        member = self._members[segment.model]
        rows = [
            row
            if member.placement is None and isinstance(row, np.ndarray)
            else self._refit(row, member.input)
            for row in batch.rows
        ]
        most, output = member.runner.batch_sizes[-1], Batch(segment.model, ())
        try:
            for start in range(0, len(rows), most):
                loaded = member.runner.load(rows[start : start + most])
                try:
                    inner = member.runner.run(segment.of(0), loaded)
                finally:
                    member.runner.release(loaded)
                output = replace(output, inner=(*output.inner, inner))
        except BaseException:
            self.release(output)
            raise
        return output

    def select(self, batch: Images | Batch, rows: Sequence[int]) -> Batch:
        """Return these rows of features, as the model's runner copies them."""
        if isinstance(batch, Images):
            raise ValueError("rows can be selected of features only")
        (inner,) = batch.inner
        return Batch(batch.model, (self._members[batch.model].runner.select(inner, rows),))

    def merge(self, batches: Sequence[Images | Batch]) -> Batch:
        """Return all rows of these features, as the model's runner copies them.

        They must all be of one model.
        """
        features = [batch for batch in batches if isinstance(batch, Batch)]
        models = sorted({batch.model for batch in features})
        if len(features) < len(batches) or not models:
            raise ValueError("features only can be merged")
        if len(models) > 1:
            raise ValueError(f"batches of models {models} cannot be merged")
        runner = self._members[models[0]].runner
        return Batch(models[0], (runner.merge([part for b in features for part in b.inner]),))

    def release(self, batch: Images | Batch) -> None:
        """Give the batch back to the model's runner; images go with the last reference."""
        if isinstance(batch, Batch):
            for inner in batch.inner:
                self._members[batch.model].runner.release(inner)

    def detections(self, batch: Batch) -> list[Detections]:
        """Return copies of the detections, in pixels of the common frame."""
        member = self._members[batch.model]
        found = [row for inner in batch.inner for row in member.runner.detections(inner)]
        if member.placement is None:
            return found
        return [
            replace(row, boxes_xyxy_input=member.placement.to_original(row.boxes_xyxy_input))
            for row in found
        ]

    def abort(self) -> None:
        """Let calls of the runners of all models return, if that can be done."""
        for member in self._members:
            member.runner.abort()

    def close(self, pause: Pause = no_pause, /) -> None:
        """Close the runners of all models."""
        for member in self._members:
            member.runner.close(pause)


def _batch_sizes(runners: Sequence[SegmentRunner]) -> tuple[int, ...]:
    """Return the batch sizes of all ``runners`` together.

    A runner of whole models alone runs a larger batch in parts; what leaves features cannot.
    """
    every = set().union(*(runner.batch_sizes for runner in runners))
    for runner in runners:
        if not all(segment.head for segment in runner.segments):
            every &= set(runner.batch_sizes)
    return tuple(sorted(every))


def _placement(frame: ModelInput, model_input: ModelInput) -> Letterbox | None:
    """Return how the common frame lies in a model's input; None if it is the same."""
    return None if frame == model_input else model_input.place(frame.width, frame.height)
