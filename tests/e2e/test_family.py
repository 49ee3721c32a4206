"""Two models of different input sizes, served as one by a gateway in a process of its own."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from builder.exporting.repository import write_entry
from serving.api.schemas import DetectionResponse, Models
from serving.core import segment as segments
from serving.core.catalog import Exit
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.letterbox import ModelInput
from serving.core.model_entry import ModelEntry
from serving.imaging.decoding import refit
from serving.models.opening import open_runner
from serving.models.runtime_options import RuntimeOptions
from tests.e2e.backends import RUNTIME
from tests.e2e.process import PATIENCE_S, Server, eventually
from tests.exported import exported_detector
from tests.serving.fakes import encode

LARGE, SMALL = "large", "small"
SIZES = {LARGE: (512, 640), SMALL: (128, 128)}  # height, width
ACCURACY = {LARGE: (0.60, 0.70, 0.69), SMALL: (0.40, 0.50)}
CHANNELS = {LARGE: 96, SMALL: 32}
PIXELS = np.random.default_rng(1).integers(0, 256, (*SIZES[LARGE], 3), dtype=np.uint8)
LOOSE_MS = 600_000.0
BOX_PIXELS = 0.5
"""Batches of one and unit or fused segments round differently, and a reply to hundredths."""


def write_model(repository: Path, name: str) -> None:
    exits = tuple(Exit(depth, ap, ap, {}) for depth, ap in enumerate(ACCURACY[name], start=1))
    folder = repository / f"{name}_anytime" / "1"
    exported = exported_detector(
        folder,
        input_size=SIZES[name],
        num_stacks=len(exits),
        neck_channels=CHANNELS[name],
        head_channels=CHANNELS[name],
    )
    catalog = replace(exported.catalog, name=name, exits=exits, profiles={RUNTIME: profile(name)})
    write_entry(ModelEntry((catalog,)), folder)


def profile(name: str) -> LatencyProfile:
    """An invented one, in which deeper and larger is slower; the server soon knows better."""
    ms = {LARGE: 10, SMALL: 1}[name]
    every = segments.every_segment(len(ACCURACY[name]))
    table = {
        (segment, size): Quantiles(*[ms * len(segment.parts) * size / 1e3] * 3)
        for segment in every
        for size in (1, 4)
    }
    return LatencyProfile(RUNTIME, "nowhere", "2026-01-01", 1, table)


@dataclass(frozen=True)
class Serving:
    """The gateway and the models that it serves."""

    server: Server
    repository: Path

    def models(self) -> Models:
        reply = httpx.get(f"{self.server.url}/v1/models", timeout=PATIENCE_S)
        return Models.model_validate(reply.json())

    def detect(self, budget_ms: float, **params: Any) -> DetectionResponse | None:
        """What is found; None if it was refused or late."""
        headers = {"Content-Type": "image/png", "X-Deadline-Ms": str(budget_ms)}
        reply = httpx.post(
            f"{self.server.url}/v1/detect",
            content=encode(PIXELS, "PNG", compress_level=0),
            headers=headers,
            params=params,
            timeout=PATIENCE_S,
        )
        assert reply.status_code in (200, 408, 422, 503, 504), reply.text
        return DetectionResponse.model_validate(reply.json()) if reply.status_code == 200 else None


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    repository = tmp_path_factory.mktemp("family")
    for name in SIZES:
        write_model(repository, name)
    environment: dict[str, Any] = {
        "PUNCTUAL_MODEL_REPOSITORY": repository,
        "PUNCTUAL_MODEL": f"{LARGE},{SMALL}",
        "PUNCTUAL_RUNTIME": RUNTIME,
        "PUNCTUAL_NUM_THREADS": 1,
        "PUNCTUAL_MAX_BUDGET_MS": LOOSE_MS,
    }
    with Server("serving", "serve", **environment) as server:
        yield Serving(server, repository)


def assert_found_by(serving: Serving, found: DetectionResponse) -> None:
    """The boxes are those that the model finds when it is run alone."""
    folder = serving.repository / f"{found.model}_anytime" / "1"
    runner = open_runner(folder, RuntimeOptions(RUNTIME, 1))
    height, width = SIZES[found.model]
    model_input = ModelInput(width, height, "letterbox")
    placement = model_input.place(SIZES[LARGE][1], SIZES[LARGE][0])
    batch = runner.load([refit(PIXELS, model_input)])
    (alone,) = runner.detections(runner.run(segments.fused_exit(found.exit_depth), batch))
    runner.close()
    assert len(alone.scores) > 10, "nothing to compare"
    expected = placement.to_original(alone.boxes_xyxy_input)
    actual = np.array([each.box for each in found.detections])
    np.testing.assert_allclose(actual, expected, atol=BOX_PIXELS)


def test_what_is_served(serving: Serving) -> None:
    models = serving.models()
    assert [model.name for model in models.models] == [LARGE, SMALL]
    assert models.front is not None
    front = [(point.model, point.depth) for point in models.front]
    assert (LARGE, 2) in front
    aps = [point.ap for point in models.front]
    assert aps == sorted(aps)
    for model in models.models:
        assert [each.on_front for each in model.exits] == [
            (model.name, each.depth) in front for each in model.exits
        ]
    report = "off the front: exit 3 of large: .690, not above the .700 of exit 2 (40.0 ms)"
    eventually(lambda: report in serving.server.output)


def test_a_loose_budget_is_answered_by_the_large_model(serving: Serving) -> None:
    found = serving.detect(LOOSE_MS)
    assert found is not None
    assert (found.model, found.exit_depth, found.max_depth) == (LARGE, 2, 3)
    assert (found.degraded, found.expected_ap) == (False, 0.70)
    assert_found_by(serving, found)


def test_a_tight_budget_is_answered_by_the_small_model(serving: Serving) -> None:
    answers: list[DetectionResponse] = []
    small = serving.models().models[1].exits[0].min_budget_ms
    assert small is not None
    rising_ms = itertools.accumulate(itertools.repeat(1.05), operator.mul, initial=small)
    # Once more from the smallest: who was busy may no longer be.
    budgets_ms = itertools.cycle(list(itertools.takewhile(lambda ms: ms < LOOSE_MS / 2, rising_ms)))

    def answered() -> bool:
        # The smallest budget that does, on a machine that may be busy.
        answer = serving.detect(next(budgets_ms))
        answers.extend([answer] if answer else [])
        return answer is not None

    eventually(answered)
    (found,) = answers
    assert (found.model, found.max_depth, found.degraded) == (SMALL, 2, True)
    assert found.expected_ap == ACCURACY[SMALL][found.exit_depth - 1]
    assert_found_by(serving, found)


def test_a_depth_that_one_model_has(serving: Serving) -> None:
    found = serving.detect(LOOSE_MS, min_depth=3)
    assert found is not None
    assert (found.model, found.exit_depth, found.degraded) == (LARGE, 3, False)


def test_models_are_told_apart_in_metrics(serving: Serving) -> None:
    assert serving.detect(LOOSE_MS) is not None
    text = httpx.get(f"{serving.server.url}/metrics", timeout=PATIENCE_S).text
    point = 'punctual_exit_depth_total{{depth="{}",model="{}",operating_point="{}"}}'
    assert point.format(2, LARGE, f"{LARGE}@640x512/2") in text
    assert point.format(1, SMALL, f"{SMALL}@128x128/1") in text
    assert point.format(3, SMALL, f"{SMALL}@128x128/3") not in text


def test_loadgen_judges_several_as_one(serving: Serving, tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen", reason="LoadGen has no wheel for this platform")
    from loadtest.load.loadgen import LoadgenSettings, run_loadgen
    from loadtest.load.target import Target
    from loadtest.workload.images import AnnotatedImage

    image = AnnotatedImage("noise", encode(PIXELS, "PNG", compress_level=0), "image/png")
    result = run_loadgen(
        LoadgenSettings(
            url=serving.server.url,
            images=(image,),
            target=Target(),
            rate_hz=30.0,
            budget_s=60.0,
            percentile=0.5,
            min_duration_s=1.0,
            max_queries=100,
            grace_s=PATIENCE_S,
            seed=0,
            folder=tmp_path,
        )
    )
    assert result.is_valid
    assert result.outcomes["in time"] == result.count > 0
