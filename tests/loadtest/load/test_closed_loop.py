"""Callers in a closed loop, over real sockets."""

import threading

import pytest

from loadtest.load.closed_loop import WARM_UP, run_closed_loop
from loadtest.load.target import Target
from loadtest.servers.processes import StudyError
from loadtest.workload.images import AnnotatedImage
from tests.loadtest.load.answering import answers, replies, serving

PICTURES = (
    AnnotatedImage("a.jpg", b"a", "image/jpeg"),
    AnnotatedImage("b.jpg", b"b", "image/jpeg"),
)


def test_as_many_at_once_as_there_are_callers() -> None:
    together = threading.Barrier(3)
    fine, seen = answers(), 0
    count = threading.Lock()

    def answer(handler, body):
        nonlocal seen
        with count:
            seen += 1
            warm = seen <= WARM_UP
        if not warm:
            together.wait()  # breaks, and fails the request, unless three are here
        fine(handler, body)

    with serving({b"a": answer, b"b": answer}) as server:
        found = run_closed_loop(server.url, PICTURES, 3, 1e-6, Target())
    assert len(found.latencies_s) == 3  # nobody asks again, for the time is over
    assert {headers["X-Deadline-Ms"] for _, headers, _ in server.seen} == {"10000.000"}


def test_figures() -> None:
    with serving({b"a": answers(), b"b": answers()}) as server:
        found = run_closed_loop(server.url, PICTURES, 1, 0.05, Target(path="/x"))
        assert len(server.seen) == WARM_UP + len(found.latencies_s)
    assert found.rate_hz == pytest.approx(len(found.latencies_s) / found.seconds)
    assert min(found.latencies_s) <= found.p50_s <= max(found.latencies_s)
    assert sum(found.latencies_s) <= found.seconds
    assert {path for path, _, _ in server.seen} == {"/x"}


def test_a_refusal_ends_it() -> None:
    with (
        serving({b"a": replies(503, {}), b"b": replies(503, {})}) as server,
        pytest.raises(StudyError, match="does not answer: 503"),
    ):
        run_closed_loop(server.url, PICTURES, 2, 1.0, Target())
