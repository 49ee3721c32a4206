"""Triton's own clients over gRPC, against the gateway in a process of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton

from loadtest.servers.free_ports import free_port
from tests.e2e.process import Server, eventually, fake_server
from tests.serving.fakes import DETECTIONS, picture

SHORT = (
    *("--measurement-mode", "count_windows", "--measurement-request-count", "20"),
    *("--stability-percentage", "999", "--max-trials", "3"),
    *("-H", "x-deadline-ms: 9000", "--shape", "image:48,64,3", "-m", "cells"),
)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Server, int]]:
    """A server, and its port for gRPC."""
    port = free_port()
    with fake_server(PUNCTUAL_GRPC_PORT=port) as started:
        yield started, port


@pytest.mark.parametrize("load", [(), ("--streaming", "--async")], ids=["calls", "stream"])
def test_perf_analyzer(
    served: tuple[Server, int], perf_analyzer: Callable[..., str], load: tuple[str, ...]
) -> None:
    name = 'punctual_requests_total{outcome="ok"}'
    server, port = served
    before = server.metric(name)
    output = perf_analyzer(f"grpc://127.0.0.1:{port}", *SHORT, *load)
    assert "Throughput:" in output
    assert server.metric(name) - before >= 20


def test_a_port_that_is_taken_ends_the_server(served: tuple[Server, int]) -> None:
    _, port = served
    with pytest.raises(AssertionError, match=rf"gRPC cannot be served at 127\.0\.0\.1:{port}"):
        fake_server(PUNCTUAL_GRPC_PORT=port)


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
            eventually(lambda: server.metric("punctual_waiting_requests") == 1)
            server.process.send_signal(signal.SIGTERM)
            assert server.ended() == 0
        (result,) = found
        assert isinstance(result, triton.InferResult), result
        np.testing.assert_array_equal(result.as_numpy("scores"), DETECTIONS.scores)
