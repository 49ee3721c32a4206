"""Triton's own clients, unchanged, against the gateway: they find the same boxes as over
``/v1/detect``, and see the same refusals."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
from PIL import Image

from tests.e2e.process import Server, arrived, trained_server
from tests.serving.fakes import JPEG, picture
from tests.serving.gateway import slug
from tests.trained import IMAGE, MODEL

GENEROUS_US = 9_000_000
OUTCOMES = 'punctual_requests_total{outcome="%s"}'

PerfAnalyzer = Callable[..., str]


def connect(server: Server) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.url.removeprefix("http://"))


@pytest.fixture(scope="module")
def punctual() -> Iterator[Server]:
    # Two requests for one exit may go there by unit segments or by the fused one, whichever the
    # policy prefers just then: alike in float32, while bfloat16 is rounded at other places.
    with trained_server("--precision", "f32") as started:
        yield started


@pytest.fixture
def client(punctual: Server) -> Iterator[triton.InferenceServerClient]:
    with connect(punctual) as connected:
        yield connected


@pytest.fixture
def fake_client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with connect(server) as connected:
        yield connected


def pixels() -> npt.NDArray[np.uint8]:
    with Image.open(IMAGE) as image:
        return np.asarray(image)


def tensor(array: npt.NDArray[np.uint8], *, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput("image", list(array.shape), "UINT8")
    return made.set_data_from_numpy(array, binary_data=binary)


def file(data: bytes) -> triton.InferInput:
    made = triton.InferInput("image", [1], "BYTES")
    return made.set_data_from_numpy(np.array([data], dtype=np.object_))


def outputs(*, binary: bool) -> list[triton.InferRequestedOutput]:
    names = ("boxes", "scores", "labels")
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


class TestClient:
    """``tritonclient.http`` over the model in the repository."""

    @pytest.mark.parametrize("binary", [True, False])
    @pytest.mark.parametrize("form", ["file", "tensor", "numbers"])
    def test_finds_what_detect_finds(
        self, punctual: Server, client: triton.InferenceServerClient, form: str, binary: bool
    ) -> None:
        data = IMAGE.read_bytes()
        image = file(data) if form == "file" else tensor(pixels(), binary=form == "tensor")
        result = client.infer(
            MODEL, [image], outputs=outputs(binary=binary), timeout=GENEROUS_US, request_id="42"
        )
        expected = punctual.detect(data, headers={"X-Deadline-Ms": "9000"}).json()
        found = expected["detections"]
        assert len(found) > 5
        boxes, scores, labels = (result.as_numpy(o) for o in ("boxes", "scores", "labels"))
        assert (boxes.dtype, scores.dtype, labels.dtype) == (np.float32, np.float32, np.int32)
        # To what /v1/detect rounds: a hundredth of a pixel, a ten-thousandth.
        np.testing.assert_allclose(boxes, [each["box"] for each in found], atol=0.006)
        np.testing.assert_allclose(scores, [each["score"] for each in found], atol=6e-5)
        assert labels.tolist() == [each["class_id"] for each in found]
        reply = result.get_response()
        assert reply["id"] == "42"
        parameters = reply["parameters"]
        assert parameters["exit_depth"] == expected["exit_depth"]
        assert not expected["degraded"], "the best exit"
        assert parameters["budget_ms"] == GENEROUS_US / 1e3
        assert parameters["slack_ms"] > 0

    def test_depth_is_a_parameter(self, client: triton.InferenceServerClient) -> None:
        result = client.infer(
            MODEL, [tensor(pixels())], timeout=GENEROUS_US, parameters={"max_depth": 2}
        )
        assert result.get_response()["parameters"]["exit_depth"] == 2

    def test_refusals_are_its_exceptions(self, client: triton.InferenceServerClient) -> None:
        image = tensor(pixels())
        with pytest.raises(triton.InferenceServerException, match=r"allow .* ms") as refused:
            client.infer(MODEL, [image], timeout=1000)
        assert refused.value.status() == "422"
        with pytest.raises(triton.InferenceServerException, match="no model 'other'") as refused:
            client.infer("other", [image])
        assert refused.value.status() == "404"
        with pytest.raises(triton.InferenceServerException, match="Content-Encoding") as refused:
            client.infer(MODEL, [image], request_compression_algorithm="gzip")
        assert refused.value.status() == "415"

    def test_asks_for_compression_in_vain(self, client: triton.InferenceServerClient) -> None:
        result = client.infer(MODEL, [tensor(pixels())], response_compression_algorithm="gzip")
        assert result.as_numpy("boxes").shape[1] == 4

    def test_describes(self, client: triton.InferenceServerClient) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.is_model_ready(MODEL, "1")
        assert not client.is_model_ready(MODEL, "2")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["name"] == "punctual"
        metadata = client.get_model_metadata(MODEL)
        config = client.get_model_config(MODEL)
        assert [each["name"] for each in metadata["inputs"]] == ["image"]
        assert [each["name"] for each in config["output"]] == ["boxes", "scores", "labels"]
        assert [each["name"] for each in client.get_model_repository_index()] == [MODEL]

    def test_counts(self, client: triton.InferenceServerClient) -> None:
        (before,) = client.get_inference_statistics(MODEL)["model_stats"]
        client.infer(MODEL, [tensor(pixels())], timeout=GENEROUS_US)
        (after,) = client.get_inference_statistics()["model_stats"]
        assert after["inference_count"] == before["inference_count"] + 1
        for stage in ("success", "compute_infer", "compute_input"):
            spent = (each["inference_stats"][stage] for each in (after, before))
            now, then = spent
            assert now["count"] == then["count"] + 1
            assert now["ns"] > then["ns"]


class TestLimits:
    """Over a fake engine, where bodies are at most 1,000,000 bytes."""

    def test_a_body_that_is_too_large(
        self, server: Server, fake_client: triton.InferenceServerClient
    ) -> None:
        before = server.peak_memory_bytes()
        for binary in (True, False):
            with pytest.raises(triton.InferenceServerException, match="larger than 1000000 bytes"):
                fake_client.infer("cells", [tensor(picture(1000, 1000), binary=binary)])
        assert server.peak_memory_bytes() - before < 32 * 2**20

    def test_the_connection_survives_a_refusal(
        self, fake_client: triton.InferenceServerClient
    ) -> None:
        image = tensor(picture(64, 48))
        for _ in range(3):
            with pytest.raises(triton.InferenceServerException, match="timeout must be"):
                fake_client.infer("cells", [image], timeout=0)
            assert fake_client.infer("cells", [image]).as_numpy("scores").shape == (3,)

    def test_both_surfaces_at_once(
        self, server: Server, fake_client: triton.InferenceServerClient
    ) -> None:
        ok = server.metric(OUTCOMES % "ok")
        assert server.detect(JPEG).status_code == 200
        fake_client.infer("cells", [file(JPEG)])
        assert server.metric(OUTCOMES % "ok") == ok + 2
        refused = arrived(lambda: server.detect(JPEG, headers={"X-Deadline-Ms": "1"}))
        assert slug(refused) == "budget-infeasible"


class TestPerfAnalyzer:
    """NVIDIA's load generator. It compares the server's statistics before and after, and gives up
    at the first refusal."""

    SHORT = (
        *("--measurement-mode", "count_windows", "--measurement-request-count", "20"),
        *("--stability-percentage", "999", "--max-trials", "3"),
    )
    GENEROUS = ("-H", "X-Deadline-Ms: 9000")

    @staticmethod
    def reported(output: str) -> int:
        """Requests that the server's statistics account for."""
        found = re.search(r"Successful request count: ([0-9]+)", output)
        assert found is not None, output
        return int(found[1])

    @pytest.mark.parametrize(
        "load",
        [
            ("--concurrency-range", "2", "--shape", "image:480,640,3"),
            ("--request-rate-range", "50", "--async", "--shape", "image:48,64,3"),
            ("-x", "1", "--shape", "image:48,64,3"),
            # It writes only one row of a tensor that it sends as numbers.
            (
                *("--input-tensor-format", "json", "--output-tensor-format", "json"),
                *("--shape", "image:1,64,3"),
            ),
        ],
        ids=["concurrency", "rate", "version", "json"],
    )
    def test_drives_the_gateway(
        self, server: Server, perf_analyzer: PerfAnalyzer, load: tuple[str, ...]
    ) -> None:
        ok = server.metric(OUTCOMES % "ok")
        output = perf_analyzer(server.url, "-m", "cells", *self.SHORT, *self.GENEROUS, *load)
        served = server.metric(OUTCOMES % "ok") - ok
        assert 20 <= self.reported(output) <= served

    def test_drives_the_model(self, punctual: Server, perf_analyzer: PerfAnalyzer) -> None:
        load = ("--shape", "image:480,640,3")
        output = perf_analyzer(punctual.url, "-m", MODEL, *self.SHORT, *self.GENEROUS, *load)
        assert self.reported(output) >= 20
        found = re.search(r"compute infer ([0-9]+) usec", output)
        assert found is not None
        assert int(found[1]) > 0

    def test_sees_refusals(self, server: Server, perf_analyzer: PerfAnalyzer) -> None:
        load = ("--shape", "image:48,64,3", "-H", "X-Deadline-Ms: 1")
        # On a busy machine it may be late before it can be refused for its budget.
        refused = r"[Aa]n idle server usually needs|body had not arrived|waited to be read"
        with pytest.raises(AssertionError, match=refused):
            perf_analyzer(server.url, "-m", "cells", *self.SHORT, *load)
