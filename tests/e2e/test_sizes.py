"""One model at two input sizes, on every backend: each size answers, and says that it did."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from builder.exporting.build import at_sizes, write_model
from builder.exporting.repository import write_entry, write_texts
from serving.api.schemas import DetectionResponse, Models
from serving.artifacts.model_folders import read_entry, version_folder
from serving.core import segment as segments
from serving.core.catalog import Exit
from serving.imaging.decoding import refit
from serving.models.opening import open_runner
from serving.models.runtime_options import RuntimeOptions
from tests.e2e.backends import BACKENDS, RUNTIME, gateway
from tests.e2e.process import PATIENCE_S, Server
from tests.e2e.triton import Triton
from tests.exported import ssdlite
from tests.serving.fakes import encode

MODEL = "toy"
SMALL, LARGE = "76x76", "76x108"
# The large size has one exit, so that depth says which size can answer.
ACCURACY = {SMALL: (0.3, 0.6), LARGE: (0.5,)}
PIXELS = np.random.default_rng(1).integers(0, 256, (108, 76, 3), dtype=np.uint8)
BUDGET_MS = 9000.0
BOX_PIXELS = 0.5
"""Fused and unit segments round differently, and a reply to hundredths."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    detectors = at_sizes(ssdlite(), [(76, 76), (108, 76)])
    entry = write_model(detectors, MODEL, "test", folder, time.perf_counter)
    exits = {
        size: tuple(Exit(depth, ap, ap, {}) for depth, ap in enumerate(aps, start=1))
        for size, aps in ACCURACY.items()
    }
    catalogs = (replace(catalog, exits=exits[catalog.size]) for catalog in entry.catalogs)
    entry = replace(entry, catalogs=tuple(catalogs))
    write_entry(entry, version_folder(folder, MODEL))
    write_texts(folder, entry, RUNTIME)
    return folder


@pytest.fixture(scope="module")
def triton(
    tritonserver: None, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    server = Triton(repository, tmp_path_factory.mktemp("triton") / "log")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module", params=BACKENDS)
def server(request: pytest.FixtureRequest, repository: Path) -> Iterator[Server]:
    triton = None if request.param == "embedded" else request.getfixturevalue("triton")
    with gateway(request.param, repository, triton) as started:
        yield started


def detect(server: Server, **params: object) -> DetectionResponse:
    reply = server.detect(
        encode(PIXELS, "PNG"),
        headers={"Content-Type": "image/png", "X-Deadline-Ms": str(BUDGET_MS)},
        params=params,
    )
    assert reply.status_code == 200, reply.text
    return DetectionResponse.model_validate(reply.json())


@pytest.mark.parametrize(
    ("point", "bounds"), [(f"{SMALL}/2", {"min_depth": 2}), (f"{LARGE}/1", {"max_depth": 1})]
)
def test_each_size_answers(
    server: Server, repository: Path, point: str, bounds: dict[str, int]
) -> None:
    """With the boxes that it finds alone, once the image was brought to the largest size."""
    found = detect(server, **bounds)
    size, _, depth = point.partition("/")
    assert (found.model, found.operating_point) == (MODEL, point)
    assert (found.exit_depth, found.expected_ap) == (int(depth), ACCURACY[size][int(depth) - 1])
    folder = version_folder(repository, MODEL)
    model_input = read_entry(folder).size(size).input
    runner = open_runner(
        folder, RuntimeOptions(RUNTIME, 1), {segments.fused_exit(int(depth))}, size
    )
    batch = runner.load([refit(PIXELS, model_input)])
    (alone,) = runner.detections(runner.run(segments.fused_exit(int(depth)), batch))
    runner.close()
    assert len(alone.scores) > 5, "nothing to compare"
    expected = model_input.place(76, 108).to_original(alone.boxes_xyxy_input)
    actual = np.array([each.box for each in found.detections])
    assert len(actual) == len(expected)
    # Boxes of equal scores may be in another order.
    distance = np.abs(actual[:, None] - expected[None]).max(-1)  # (found, expected)
    assert (distance.min(1) < BOX_PIXELS).mean() > 0.9


def test_the_best_point_answers_whoever_has_time(server: Server) -> None:
    found = detect(server)
    assert (found.operating_point, found.degraded) == (f"{SMALL}/2", False)


def test_sizes_are_listed_with_predictions(server: Server) -> None:
    reply = httpx.get(f"{server.url}/v1/models", timeout=PATIENCE_S)
    models = Models.model_validate(reply.json())
    assert [(model.name, model.size) for model in models.models] == [(MODEL, SMALL), (MODEL, LARGE)]
    points = [each for model in models.models for each in model.exits]
    assert [each.operating_point for each in points] == [f"{SMALL}/1", f"{SMALL}/2", f"{LARGE}/1"]
    assert all((each.predicted_ms or 0) > 0 for each in points)
    assert models.front is not None
    assert models.front[-1].operating_point == f"{SMALL}/2"


def test_answers_are_counted_by_point(server: Server) -> None:
    detect(server, max_depth=1)
    text = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
    labels = f'depth="1",model="{MODEL}",operating_point="{LARGE}/1"'
    (count,) = re.findall(rf"^punctual_exit_depth_total{{{labels}}} (.*)$", text, re.MULTILINE)
    assert float(count) >= 1
