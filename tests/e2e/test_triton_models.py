"""The models in a real Triton, as its own clients see them."""

from __future__ import annotations

import queue
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from serving.triton import wire
from tests.e2e.backends import MODEL, NUM_EXITS
from tests.e2e.process import PATIENCE_S, eventually
from tests.e2e.triton import Triton

ANYTIME = f"{MODEL}_anytime"
HEIGHT, WIDTH = 128, 256


def pixels(size: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (size, HEIGHT, WIDTH, 3), dtype=np.uint8)


class Stream:
    """``tritonclient``'s own stream to the anytime model."""

    def __init__(self, url: str) -> None:
        self.client = triton_grpc.InferenceServerClient(url)
        self.answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))

    def send(self, image: np.ndarray | None = None, request_id: str = "", **options: Any) -> None:
        inputs = []
        if image is not None:
            inputs = [triton_grpc.InferInput(wire.IMAGE, list(image.shape), "UINT8")]
            inputs[0].set_data_from_numpy(image)
        timeout = options.pop("timeout", None)
        # Only where several answers are expected is the end told by an empty one.
        with_end = options.get("every_exit", False)
        self.client.async_stream_infer(
            ANYTIME,
            inputs,
            request_id=request_id,
            timeout=timeout,
            parameters=options,
            enable_empty_final_response=with_end,
        )

    def receive(self) -> tuple[Any, Any]:
        return self.answers.get(timeout=60)

    def detections(self, **options: Any) -> Any:
        """One request, one answer."""
        self.send(pixels(1)[0], **options)
        result, error = self.receive()
        assert error is None
        return result

    def refusal(self, image: np.ndarray | None, **options: Any) -> str:
        self.send(image, **options)
        _, error = self.receive()
        assert isinstance(error, InferenceServerException)
        return error.message()


@pytest.fixture
def stream(triton: Triton) -> Iterator[Stream]:
    opened = Stream(triton.url)
    yield opened
    opened.client.stop_stream(cancel_requests=True)
    opened.client.close()


def is_final(result: Any) -> bool:
    return result.get_response().parameters["triton_final_response"].bool_param


# -- <model>_anytime -------------------------------------------------------------------------------


def test_an_answer(stream):
    result = stream.detections(timeout=60_000_000)
    assert result.as_numpy(wire.EXIT_DEPTH).tolist() == [NUM_EXITS]
    assert result.as_numpy(wire.OPERATING_POINT).tolist() == [0, NUM_EXITS]
    boxes, scores = result.as_numpy(wire.BOXES), result.as_numpy(wire.SCORES)
    assert boxes.shape == (len(scores), 4)
    assert len(scores) > 10
    assert np.all(np.diff(scores) <= 0)
    queue_us, engine_us, predicted_us = result.as_numpy(wire.TIMES).tolist()
    assert 0 <= queue_us < 60_000_000
    assert engine_us > 0
    assert predicted_us > 0
    # A status that is asked for now comes next: there was one answer and no more.
    stream.send(command="status")
    result, error = stream.receive()
    assert error is None
    assert result.as_numpy(wire.STATUS) is not None


def test_without_a_budget_it_has_time(stream):
    assert stream.detections().as_numpy(wire.EXIT_DEPTH).tolist() == [NUM_EXITS]


def test_depth_bounds(stream):
    assert stream.detections(min_depth=2, max_depth=2).as_numpy(wire.EXIT_DEPTH).tolist() == [2]


def test_an_answer_at_every_exit(stream):
    """One response for each exit as it is reached, then the end."""
    stream.send(pixels(1)[0], timeout=60_000_000, every_exit=True)
    results = []
    while True:
        result, error = stream.receive()
        assert error is None
        if is_final(result):
            break
        results.append(result)
    depths = [result.as_numpy(wire.EXIT_DEPTH).item() for result in results]
    assert depths == list(range(1, NUM_EXITS + 1))
    alone = stream.detections(min_depth=2, max_depth=2, timeout=60_000_000)
    np.testing.assert_allclose(
        results[1].as_numpy(wire.BOXES), alone.as_numpy(wire.BOXES), atol=0.05
    )


def test_no_box_at_all_is_an_answer(stream):
    """An output without elements is where careless backends fall over."""
    grey = np.full((HEIGHT, WIDTH, 3), 114, np.uint8)
    stream.send(grey, timeout=60_000_000, max_depth=1)
    result, error = stream.receive()
    assert error is None
    boxes, scores = result.as_numpy(wire.BOXES), result.as_numpy(wire.SCORES)
    assert boxes.shape == (len(scores), 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_depth": 0}, "min_depth must be one integer"),
        ({"max_depth": "two"}, "max_depth must be one integer"),
        ({"min_depth": 3, "max_depth": 2}, "min_depth, 3, is above max_depth, 2"),
        ({"depth": 2}, "There is no parameter 'depth'"),
        ({"command": "dance"}, "There is no command 'dance'"),
        ({"timeout": 1}, "[overloaded rejected-expired 0us]"),
    ],
)
def test_a_malformed_request_is_refused(stream, options, message):
    assert message in stream.refusal(pixels(1)[0], **options)
    assert stream.detections().as_numpy(wire.EXIT_DEPTH) is not None, "the stream lives on"


def test_a_request_without_an_image_is_refused(stream):
    assert "There is no input 'image'" in stream.refusal(None)


def test_a_wrong_shape_is_refused(stream):
    assert "unexpected shape" in stream.refusal(pixels(1)[0, :64])


def test_cancelling_by_id(stream, triton):
    """A gateway's stream carries many requests, so one of them is given up by its name. An engine
    that is faster than this client may have answered it by then: so again, until one is met."""
    image = pixels(1)[0]
    last = 59

    def is_met() -> bool:
        before = results_counted(triton, "cancelled")
        for number in range(last + 1):
            stream.send(image, f"r{number}", timeout=60_000_000)
        stream.send(command="cancel", target=f"r{last}")
        ends = [stream.receive() for _ in range(last + 1)]
        messages = [error.message() for _, error in ends if error is not None]
        assert messages in ([], ["The request was cancelled. [cancelled]"])
        eventually(lambda: results_counted(triton, "cancelled") == before + len(messages))
        return bool(messages)

    eventually(is_met)


def test_a_stream_that_is_given_up_cancels_its_requests(triton):
    """Again and again, at any moment: nothing that is asked or sent may meet a request that Triton
    has already let go of. An engine that is faster than this client may have answered all of them
    by then: so again, until some are met."""
    before = results_counted(triton, "cancelled")

    def are_met() -> bool:
        stream = Stream(triton.url)
        for _ in range(20):
            stream.send(pixels(1)[0], timeout=60_000_000)
        stream.receive()  # they have arrived
        stream.client.stop_stream(cancel_requests=True)
        stream.client.close()
        return results_counted(triton, "cancelled") > before

    for _ in range(9):
        are_met()
    eventually(are_met)
    assert triton.process.poll() is None


def test_status(stream):
    stream.send(command="status")
    result, error = stream.receive()
    assert error is None
    status = wire.EngineStatus.from_numbers(result.as_numpy(wire.STATUS).tolist())
    assert len(status.exits_s) == NUM_EXITS
    assert all(seconds > 0 for seconds in status.exits_s)


def test_metrics_on_tritons_own_page(stream, triton):
    def margins() -> float:
        return sample(triton, rf'punctual_deadline_margin_seconds_count{{model="{MODEL}"}}')

    def answered(depth: int) -> float:
        labels = f'depth="{depth}",model="{MODEL}",operating_point="256x128/{depth}"'
        return sample(triton, f"punctual_exit_depth_total{{{labels}}}")

    before = margins(), answered(2)
    stream.detections(min_depth=2, max_depth=2)
    eventually(lambda: (margins(), answered(2)) == (before[0] + 1, before[1] + 1))


def sample(triton: Triton, line: str) -> float:
    found = re.search(rf"^{re.escape(line)} (\S+)$", triton.metrics(), re.MULTILINE)
    assert found is not None, line
    return float(found[1])


def results_counted(triton: Triton, result: str) -> float:
    return sample(triton, rf'punctual_engine_results_total{{model="{MODEL}",result="{result}"}}')


# -- <model>_d1 .. <model>_dN ----------------------------------------------------------------------


@pytest.fixture(params=["grpc", "http"])
def client(request, triton):
    module, url = {
        "grpc": (triton_grpc, triton.url),
        "http": (triton_http, triton.http_url.removeprefix("http://")),
    }[request.param]
    opened = module.InferenceServerClient(url)
    yield opened, module
    opened.close()


@pytest.mark.parametrize("size", [1, 3, 4])
def test_depth_models_answer_standard_clients(client, stream, size):
    opened, module = client
    batch = pixels(size)
    images = module.InferInput(wire.IMAGES, list(batch.shape), "UINT8")
    images.set_data_from_numpy(batch)
    result = opened.infer(f"{MODEL}_d2", [images])
    counts = result.as_numpy(wire.COUNTS)
    assert counts.shape == (size, 1)
    assert (counts > 10).all()
    boxes, scores = result.as_numpy(wire.BOXES), result.as_numpy(wire.SCORES)
    anytime = stream.detections(min_depth=2, max_depth=2, timeout=60_000_000)
    found = counts[0, 0]
    np.testing.assert_allclose(boxes[0, :found], anytime.as_numpy(wire.BOXES), atol=0.05)
    np.testing.assert_allclose(scores[0, :found], anytime.as_numpy(wire.SCORES), atol=1e-3)
    assert not scores[0, found:].any()


def test_depth_models_refuse_too_large_a_batch(client):
    opened, module = client
    images = module.InferInput(wire.IMAGES, [5, HEIGHT, WIDTH, 3], "UINT8")
    images.set_data_from_numpy(pixels(5))
    with pytest.raises(InferenceServerException, match="batch-size must be <= 4"):
        opened.infer(f"{MODEL}_d1", [images])


def test_every_model_is_listed_and_ready(triton):
    index = httpx.post(f"{triton.http_url}/v2/repository/index", timeout=PATIENCE_S).json()
    expected = {ANYTIME, *(f"{MODEL}_d{depth}" for depth in range(1, NUM_EXITS + 1))}
    assert {entry["name"] for entry in index if entry["state"] == "READY"} == expected


# -- perf_analyzer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [f"{MODEL}_d1", ANYTIME])
def test_perf_analyzer_drives_them(perf_analyzer, triton, tmp_path: Path, model):
    report = tmp_path / "report.csv"
    options = ["-m", model, "-f", str(report), "--measurement-mode", "count_windows"]
    options += ["--measurement-request-count", "10", "--max-trials", "3", "-s", "999"]
    options += ["--streaming"] if model == ANYTIME else []
    output = perf_analyzer(f"grpc://{triton.url}", *options)
    assert re.search(r"throughput: [1-9][0-9.]* infer/sec", output), output
    assert "Inferences/Second" in report.read_text()
