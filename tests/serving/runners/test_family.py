from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from serving.core import segment as segments
from serving.core.latency import LatencyModel
from serving.core.letterbox import ModelInput
from serving.core.ports import Image, Pause, SegmentRunner, no_pause
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.core.timing import warm_up
from serving.runners.family import FamilyRunner
from tests.serving.fakes import CATALOG, family_of
from tests.serving.world import FakeBatch, FakeClock, FakeRunner

# The frame is that of the large model, 128 x 96; in the small one's input it is 64 x 48.
FAMILY = family_of(
    replace(CATALOG, name="small", input_width=80, input_height=48),
    replace(CATALOG, name="large"),
)
HEAD = segments.head(1)


@dataclass
class Boxes(FakeRunner):
    """Finds one box, of which the small model's input has all of the frame; and remembers the shape
    of what it was given."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    closed: bool = False

    def load(self, images: Sequence[Image]) -> FakeBatch:
        self.shapes += [image.shape for image in images]
        return super().load(images)

    def detections(self, batch: FakeBatch) -> list[Detections]:
        box = np.array([[8, 12, 64, 48]], np.float32)
        return [replace(row, boxes_xyxy_input=box) for row in super().detections(batch)]

    def close(self, pause: Pause = no_pause, /) -> None:
        super().close(pause)
        self.closed = True


class Bench:
    def __init__(self, **large: object) -> None:
        clock = FakeClock()
        self.small, self.large = Boxes(clock), Boxes(clock, **large)  # type: ignore[arg-type]
        self.runner = FamilyRunner(FAMILY, (self.small, self.large), self.refit)
        self.clock = clock

    def refit(self, image: Image, model_input: ModelInput) -> Image:
        return np.full((model_input.height, model_input.width, 3), image[0, 0, 0], np.uint8)

    def run(self, *path: Segment, images: int = 1) -> list[Detections]:
        batch: Any = self.runner.load([frame(number) for number in range(images)])
        for segment in path:
            output = self.runner.run(segment, batch)
            self.runner.release(batch)
            batch = output
        found = self.runner.detections(batch)
        self.runner.release(batch)
        return found


def frame(number: int = 0) -> Image:
    return np.full((96, 128, 3), number, np.uint8)


def path(model: int, depth: int = 1) -> list[Segment]:
    return [segment.of(model) for segment in segments.unit_path(depth)]


def test_a_stretched_frame_is_stretched_to_the_smaller_input() -> None:
    sizes = [replace(catalog, resize="stretch") for catalog in FAMILY.catalogs]
    bench = Bench()
    runner = FamilyRunner(family_of(*sizes), (bench.small, bench.large), bench.refit)
    output = runner.run(segments.fused_exit(1), runner.load([frame()]))
    (found,) = runner.detections(output)
    # Each axis by its own factor: 128 / 80 and 96 / 48.
    np.testing.assert_allclose(found.boxes_xyxy_input, [[12.8, 24, 102.4, 96]], rtol=1e-6)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("units", "batch_sizes"),
    [((True, True), (1,)), ((True, False), (1, 4)), ((False, False), (1, 2, 4, 8))],
)
def test_segments_of_every_model_and_batch_sizes_of_all(
    units: tuple[bool, bool], batch_sizes: tuple[int, ...]
) -> None:
    """Whole models take what is too much for one run in parts."""
    bench = Bench(batch_sizes=(1, 2, 8), units=units[1])
    bench.small.units = units[0]
    runner: SegmentRunner = FamilyRunner(FAMILY, (bench.small, bench.large), bench.refit)
    assert runner.segments == bench.small.segments | {s.of(1) for s in bench.large.segments}
    assert runner.batch_sizes == batch_sizes
    assert runner.runtime == "fake 1"


def test_whole_models_run_a_large_batch_in_parts() -> None:
    bench = Bench(batch_sizes=(1, 2), units=False)
    found = bench.run(segments.fused_exit(1).of(1), images=4)
    assert len(found) == 4
    assert bench.large.log == [("exit_1", 2)] * 2
    assert all(batch.released for batch in bench.large.batches)


def test_a_part_that_fails_takes_the_others_with_it() -> None:
    bench = Bench(batch_sizes=(1, 2), units=False, fail_on=frozenset({2}))
    with pytest.raises(RuntimeError, match="on fire"):
        bench.run(segments.fused_exit(1).of(1), images=4)
    assert bench.large.log == [("exit_1", 2)] * 2
    assert all(batch.released for batch in bench.large.batches)


@pytest.mark.parametrize(
    ("model", "shape", "box"),
    [(0, (48, 80, 3), [16, 24, 128, 96]), (1, (96, 128, 3), [8, 12, 64, 48])],
)
def test_each_model_has_its_own_size_but_all_boxes_are_in_the_frame(
    bench: Bench, model: int, shape: tuple[int, ...], box: list[float]
) -> None:
    members = (bench.small, bench.large)
    for way in (path(model), [segments.fused_exit(2).of(model)]):
        found = bench.run(*way, images=2)
        assert [row.boxes_xyxy_input.tolist() for row in found] == [[box]] * 2
        assert [row.scores.tolist() for row in found] == [[0.0], [1.0]]  # each its own image
    assert members[model].shapes == [shape] * 4
    assert not members[1 - model].log
    assert all(batch.released for batch in members[model].batches)


def test_images_stay_for_another_model(bench: Bench) -> None:
    batch = bench.runner.load([frame()])
    bench.runner.run(segments.STEM, batch)
    bench.runner.run(segments.STEM.of(1), batch)
    assert (bench.small.log, bench.large.log) == ([("stem", 1)], [("stem", 1)])


def test_rows_stay_with_their_model(bench: Bench) -> None:
    stem = segments.STEM.of(1)
    features = bench.runner.run(stem, bench.runner.load([frame(n) for n in range(3)]))
    other = bench.runner.run(stem, bench.runner.load([frame(7)]))
    batch = bench.runner.merge([bench.runner.select(features, [2, 0]), other])
    for segment in path(1)[1:]:
        batch = bench.runner.run(segment, batch)
    assert [row.scores.tolist() for row in bench.runner.detections(batch)] == [[2.0], [0.0], [7.0]]


def test_what_does_not_fit_is_refused(bench: Bench) -> None:
    runner = bench.runner
    with pytest.raises(ValueError, match="an image is"):
        runner.load([np.zeros((48, 80, 3), np.uint8)])
    with pytest.raises(ValueError, match="1 to 4 images"):
        runner.load([frame()] * 5)
    images = runner.load([frame()])
    first, second = (runner.run(segments.STEM.of(model), images) for model in (0, 1))
    with pytest.raises(ValueError, match="stack_1 does not take a batch of model 1"):
        runner.run(segments.stack(1), second)
    with pytest.raises(ValueError, match="does not take a batch of depth"):
        runner.run(HEAD, images)
    with pytest.raises(ValueError, match="no segment stem@2"):
        runner.run(segments.STEM.of(2), images)
    with pytest.raises(ValueError, match="features only"):
        runner.select(images, [0])
    unmerged: tuple[list[Any], ...] = ([], [first, images])
    for batches in unmerged:
        with pytest.raises(ValueError, match="features only"):
            runner.merge(batches)
    with pytest.raises(ValueError, match=r"models \[0, 1\] cannot be merged"):
        runner.merge([first, second])


def test_a_failure_leaves_no_images_loaded() -> None:
    bench = Bench(fail_on=frozenset({1}))
    with pytest.raises(RuntimeError, match="on fire"):
        bench.run(segments.STEM.of(1))
    assert [batch.released for batch in bench.large.batches] == [True]


def test_warming_up_reaches_every_segment(bench: Bench) -> None:
    latency = LatencyModel(None)
    warm_up(bench.runner, latency, frame(), 5, bench.clock, rounds=1)
    for segment in bench.runner.segments:
        for size in bench.runner.batch_sizes:
            expected_s = bench.small.cost(segment.of(0), size)
            assert latency.typical(segment, size) == pytest.approx(expected_s)
    for member in (bench.small, bench.large):
        assert all(batch.released for batch in member.batches)


def test_closes_all(bench: Bench) -> None:
    bench.runner.close()
    assert (bench.small.closed, bench.large.closed) == (True, True)


def test_what_is_not_decoded_yet_is_so_for_each_model(bench: Bench) -> None:
    class Lazy:
        """What becomes pixels, in the shape of those of the frame."""

        shape, dtype = (96, 128, 3), np.dtype(np.uint8)

        def __getitem__(self, _: object) -> int:
            return 7

    lazy: Any = Lazy()
    for model, runner in enumerate((bench.small, bench.large)):
        batch = bench.runner.load([lazy])
        bench.runner.release(bench.runner.run(segments.fused_exit(1).of(model), batch))
        assert runner.shapes == [((48, 80, 3), (96, 128, 3))[model]]
