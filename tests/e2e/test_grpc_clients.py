"""Triton's own clients over gRPC, against the gateway in a process of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.e2e.process import Server, fake_server, free_port
from tests.serving.fakes import DETECTIONS, picture

SHORT = (
    *("--measurement-mode", "count_windows", "--measurement-request-count", "20"),
    *("--stability-percentage", "999", "--max-trials", "3"),
    *("-H", "x-deadline-ms: 9000", "--shape", "image:48,64,3", "-m", "cells"),
)
PORT = free_port()
ADDRESS = f"127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    with fake_server(PUNCTUAL_GRPC_PORT=PORT) as started:
        yield started


@pytest.mark.parametrize("load", [(), ("--streaming", "--async")], ids=["calls", "stream"])
def test_perf_analyzer(
    served: Server, perf_analyzer: Callable[..., str], load: tuple[str, ...]
) -> None:
    name = 'punctual_requests_total{outcome="ok"}'
    before = served.metric(name)
    output = perf_analyzer(f"grpc://{ADDRESS}", *SHORT, *load)
    assert "Throughput:" in output
    assert served.metric(name) - before >= 20


def test_a_port_that_is_taken_ends_the_server(served: Server) -> None:
    with pytest.raises(AssertionError, match=f"gRPC cannot be served at {ADDRESS}"):
        fake_server(PUNCTUAL_GRPC_PORT=PORT)


def test_it_drains() -> None:
    """Who is inside is answered after SIGTERM, over gRPC as over HTTP."""
    port = free_port()
    with fake_server(PUNCTUAL_GRPC_PORT=port) as server:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            image = triton.InferInput("image", [48, 64, 3], "UINT8")
            image.set_data_from_numpy(picture(64, 48))
            found: list[object] = []
            # Takes .6 seconds.
            client.async_infer(
                "cells",
                [image],
                callback=lambda result, error: found.append(error or result),
                parameters={"max_depth": 2, "deadline_ms": 9000},
            )
            while not server.metric("punctual_waiting_requests"):
                pass
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 0
        (result,) = found
        assert isinstance(result, triton.InferResult), result
        np.testing.assert_array_equal(result.as_numpy("scores"), DETECTIONS.scores)
