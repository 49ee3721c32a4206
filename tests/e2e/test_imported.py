"""Detectors that others exported, served: by the gateway as one family, and by a real Triton."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from builder.onnx_import.layouts import LAYOUTS
from serving.__main__ import main
from serving.api.schemas import DetectionResponse, Models
from serving.triton import wire
from tests.builder.onnx_import.detectors import NAMES, SIDE, THINGS, known_detector, save
from tests.e2e.process import PATIENCE_S, Server
from tests.e2e.test_triton_models import Stream
from tests.e2e.triton import Triton
from tests.serving.fakes import encode

KEPT = [thing for thing in THINGS if thing is not THINGS[2]]
"""What is left after suppression."""
IMAGE = np.zeros((SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that finds one thing, and one that finds all, in an order that is stated."""
    folder = tmp_path_factory.mktemp("imported")
    (folder / "labels.txt").write_text("\n".join(NAMES))
    where = ["--model-repository", str(folder / "models")]
    for name, layout, things in (("small", "yolov8", THINGS[:1]), ("large", "yolov5", THINGS)):
        path = save(known_detector(LAYOUTS[layout], things), folder / f"{name}.onnx")
        options = ["--classes", str(folder / "labels.txt"), "--license", "MIT", "--threads", "1"]
        assert main(["import-onnx", str(path), "--name", name, *options, *where]) == 0
    assert main(["rank", "--model", "small", "large", "--write", *where]) == 0
    return folder / "models"


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    environment: dict[str, Any] = {
        "PUNCTUAL_MODEL_REPOSITORY": repository,
        "PUNCTUAL_MODEL": "small,large",
        "PUNCTUAL_NUM_THREADS": 1,
        "PUNCTUAL_MAX_BUDGET_MS": 600_000,
    }
    with Server("serving", "serve", **environment) as started:
        yield started


def test_the_gateway_says_what_they_are(server: Server) -> None:
    models = Models.model_validate(httpx.get(f"{server.url}/v1/models", timeout=PATIENCE_S).json())
    assert [model.name for model in models.models] == ["small", "large"]
    for model in models.models:
        assert model.license == "MIT"
        assert model.origin.startswith(f"{model.name}.onnx, SHA-256 ")
        assert model.classes == list(NAMES)
        assert model.evaluation is not None
        assert (model.evaluation.measure, model.evaluation.reference) == ("order", "small < large")


def test_the_better_one_answers_where_there_is_time(server: Server) -> None:
    reply = httpx.post(
        f"{server.url}/v1/detect",
        content=encode(IMAGE.repeat(2, axis=0).repeat(2, axis=1), "PNG"),
        headers={"Content-Type": "image/png", "X-Deadline-Ms": "600000"},
        timeout=PATIENCE_S,
    )
    found = DetectionResponse.model_validate(reply.json())
    assert found.model == "large"
    assert [(each.label, each.box) for each in found.detections] == [
        (NAMES[thing.label], pytest.approx([2 * side for side in thing.box], abs=0.1))
        for thing in KEPT
    ]


def test_triton_serves_the_same_repository(
    tritonserver: None, repository: Path, tmp_path: Path
) -> None:
    triton = Triton(repository, tmp_path / "log")
    triton.start("large_anytime", "large_d1")
    try:
        client = triton_http.InferenceServerClient(triton.http_url.removeprefix("http://"))
        images = triton_http.InferInput(wire.IMAGES, [1, *IMAGE.shape], "UINT8")
        images.set_data_from_numpy(IMAGE[None])
        depth = client.infer("large_d1", [images])
        assert depth.as_numpy("counts").ravel().tolist() == [len(KEPT)]
        stream = Stream(triton.url)
        stream.client.async_stream_infer("large_anytime", [_image(IMAGE)])
        anytime, error = stream.receive()
        assert error is None
        stream.client.stop_stream(cancel_requests=True)
        for boxes in (depth.as_numpy("boxes")[0, : len(KEPT)], anytime.as_numpy(wire.BOXES)):
            expected = [thing.box for thing in KEPT]
            np.testing.assert_allclose(boxes, expected, atol=0.1)
    finally:
        triton.kill()


def _image(pixels: np.ndarray) -> triton_grpc.InferInput:
    given = triton_grpc.InferInput(wire.IMAGE, list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels)
    return given
