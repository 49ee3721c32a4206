"""Replies that grow, and clients that leave them, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from serving.api.schemas import DetectionResponse, Done
from serving.composition.process import create_server
from serving.observability.metrics import Metrics
from serving.settings import Settings
from tests.e2e.process import (
    PATIENCE_S,
    Server,
    arrived,
    eventually,
    fake_server,
    head,
    trained_server,
)
from tests.serving.events import NDJSON, SSE, Event, read_events
from tests.serving.fakes import JPEG
from tests.serving.gated import SIZES, GatedRunner, gated_backend, sized_runner
from tests.serving.gateway import slug
from tests.serving.upgrades import Upgrades
from tests.trained import IMAGE

MEDIA_TYPES = pytest.mark.parametrize("media_type", [SSE, NDJSON])


@contextlib.contextmanager
def streaming(
    url: str, media_type: str, content: bytes, budget_ms: float = 9000, **params: Any
) -> Iterator[Iterator[Event]]:
    """The events of one request as they arrive; leaving it hangs up."""
    headers = {"Content-Type": "image/jpeg", "Accept": media_type, "X-Deadline-Ms": str(budget_ms)}
    with (
        httpx.Client(base_url=url, timeout=PATIENCE_S) as client,
        client.stream(
            "POST", "/v1/detect", content=content, headers=headers, params=params
        ) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"] == media_type
        yield read_events(media_type, (line.rstrip("\n") for line in response.iter_lines()))


# ---- the real model, and a fake one --------------------------------------------------------------


@pytest.fixture(scope="module", params=["the model", "a fake"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with trained_server() if request.param == "the model" else fake_server() as started:
        yield started


def exits(server: Server) -> list[int]:
    """Up to the best one: beyond it, nobody goes."""
    (model,) = server.get("/v1/models").json()["models"]
    best = max(model["exits"], key=lambda entry: entry["ap"])
    return [entry["depth"] for entry in model["exits"] if entry["depth"] <= best["depth"]]


@MEDIA_TYPES
def test_every_exit_is_told_as_it_is_reached(server: Server, media_type: str) -> None:
    with streaming(server.url, media_type, IMAGE.read_bytes()) as events:
        *answers, last = events
    told = [DetectionResponse.model_validate(event.data) for event in answers]
    assert {event.name for event in answers} == {"detections"}
    assert [answer.exit_depth for answer in told] == exits(server)
    elapsed_ms = [answer.elapsed_ms for answer in told]
    assert elapsed_ms == sorted(elapsed_ms)
    done = Done.model_validate(last.data)
    assert last.name == "done"
    assert done.reason == ("max-depth" if done.exit_depth == done.max_depth else "best")
    assert (done.exit_depth, done.num_answers) == (len(told), len(told))


def test_the_last_answer_is_the_plain_one(server: Server) -> None:
    with streaming(server.url, SSE, IMAGE.read_bytes()) as events:
        *_, deepest, _ = events
    plain = server.detect(IMAGE.read_bytes(), headers={"X-Deadline-Ms": "9000"}).json()
    assert deepest.data["exit_depth"] == plain["exit_depth"] == exits(server)[-1]
    # A plain one may have run fused, where features are not rounded at every boundary.
    sure = [found for found in deepest.data["detections"] if found["score"] >= 0.6]
    assert sure
    for grown in sure:
        alike = [found for found in plain["detections"] if found["label"] == grown["label"]]
        assert any(found["box"] == pytest.approx(grown["box"], abs=2.0) for found in alike)


@MEDIA_TYPES
def test_no_answer_is_late(server: Server, media_type: str) -> None:
    """Down to the budgets that are refused, each answer came within them by the server's clock."""

    def ask(budget_ms: float) -> httpx.Response:
        headers = {"Accept": media_type, "X-Deadline-Ms": str(budget_ms)}
        return server.detect(IMAGE.read_bytes(), headers=headers)

    assert arrived(partial(ask, 1)).status_code == 422
    for budget_ms in (15, 20, 25, 30, 40):
        reply = ask(budget_ms)
        if reply.status_code != 200:
            assert slug(reply)
            continue
        *answers, last = read_events(media_type, reply.text.splitlines())
        assert last.name == "done"
        assert all(event.data["slack_ms"] >= 0 for event in answers)


def test_the_connection_lives_on(server: Server) -> None:
    with server.client() as client:
        for accept in (NDJSON, "*/*", SSE, NDJSON):
            headers = {"Content-Type": "image/jpeg", "Accept": accept}
            reply = client.post("/v1/detect", content=JPEG, headers=headers)
            assert reply.status_code == 200
            assert "connection" not in reply.headers


# ---- an engine that works when it is let ---------------------------------------------------------


class Gated:
    """The whole server in a thread of this process, on a socket, over segments that a test lets
    run."""

    def __init__(self, runner: GatedRunner | None = None, **how: Any) -> None:
        self.runner = runner or GatedRunner()
        self.metrics = metrics = Metrics(CollectorRegistry(), time.monotonic)
        backend = gated_backend(self.runner, metrics, **how)
        metrics.describe(backend, version="0", runtime="fake")
        self.url = ""
        ready = threading.Event()

        def announce(url: str, _: float) -> None:
            self.url = url
            ready.set()

        # The reserve is ample, so that a busy machine has sent an answer by its deadline.
        settings = Settings(
            port=0,
            max_budget_ms=600_000,
            shutdown_grace_ms=PATIENCE_S * 1e3,
            network_reserve_ms=500,
        )
        self._server = create_server(settings, backend, metrics, announce=announce)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve()), name="gateway"
        )
        self._thread.start()
        assert ready.wait(PATIENCE_S)

    def stop(self) -> None:
        self.runner.let(math.inf)
        self._server.should_exit = True
        self._thread.join()
        gc.unfreeze()  # the server freezes what it has loaded

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def cancelled(self) -> float:
        return self.sample("punctual_requests_total", outcome="cancelled")

    def streaming(self, media_type: str) -> contextlib.AbstractContextManager[Iterator[Event]]:
        return streaming(self.url, media_type, JPEG, budget_ms=600_000)

    @contextlib.contextmanager
    def plain(self) -> Iterator[list[httpx.Response]]:
        """Another client's request meanwhile; its reply is there at the end."""
        replies: list[httpx.Response] = []
        headers = {"Content-Type": "image/jpeg", "X-Deadline-Ms": "600000"}

        def send() -> None:
            url = f"{self.url}/v1/detect"
            reply = httpx.post(url, content=JPEG, headers=headers, timeout=PATIENCE_S)
            replies.append(reply)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield replies
        finally:
            sender.join()


@pytest.fixture
def gated() -> Iterator[Gated]:
    started = Gated()
    yield started
    started.stop()


TO_EXIT_1 = ("stem", "stack_1", "head_1")
WHOLE_PATH = ("stem", *(f"stack_{depth}" for depth in range(1, 6)), "head_5")


@MEDIA_TYPES
def test_an_answer_arrives_while_the_next_is_not_there(gated: Gated, media_type: str) -> None:
    gated.runner.let(3)
    with gated.streaming(media_type) as events:
        first = next(events)
        gated.runner.wait_for(*TO_EXIT_1, "stack_2")
        assert first.data["exit_depth"] == 1
        gated.runner.let(2)
        assert next(events).data["exit_depth"] == 2
        gated.runner.let(math.inf)
        assert [event.name for event in events] == ["detections"] * 3 + ["done"]
    assert gated.sample("punctual_growing_answers_sum") == 5


@MEDIA_TYPES
def test_hanging_up_after_an_answer_frees_the_place(gated: Gated, media_type: str) -> None:
    """At the boundary after the segment that runs, long before the deadline, for another."""
    runner = gated.runner
    runner.let(3)
    with gated.streaming(media_type) as events:
        assert next(events).data["exit_depth"] == 1
        runner.wait_for(*TO_EXIT_1, "stack_2")
    eventually(lambda: gated.cancelled() == 1)
    assert gated.sample("punctual_in_flight_requests") == 1  # nobody can stop a segment
    with gated.plain() as replies:
        eventually(lambda: gated.sample("punctual_waiting_requests") == 1)
        runner.let()
        runner.wait_for(*TO_EXIT_1, "stack_2", "stem")
        # That is the other's stem: of the one who left, nothing is there any more.
        assert gated.sample("punctual_in_flight_requests") == 0
        assert gated.sample("punctual_engine_results_total", result="cancelled") == 1
        runner.let(math.inf)
    assert replies[0].json()["exit_depth"] == 5
    assert runner.runs == [*TO_EXIT_1, "stack_2", *WHOLE_PATH]
    assert gated.sample("punctual_growing_answers_sum") == 1


def test_a_plain_request_that_is_left_frees_its_place(gated: Gated) -> None:
    runner = gated.runner
    with socket.create_connection(gated.address, timeout=PATIENCE_S) as connection:
        connection.sendall(head(f"Content-Length: {len(JPEG)}", "X-Deadline-Ms: 600000") + JPEG)
        runner.let(2)
        runner.wait_for("stem", "stack_1", "stack_2")
    eventually(lambda: gated.cancelled() == 1)
    with gated.plain() as replies:
        eventually(lambda: gated.sample("punctual_waiting_requests") == 1)
        runner.let()
        runner.wait_for("stem", "stack_1", "stack_2", "stem")
        assert gated.sample("punctual_in_flight_requests") == 0
        runner.let(math.inf)
    assert replies[0].json()["exit_depth"] == 5
    assert runner.runs == ["stem", "stack_1", "stack_2", *WHOLE_PATH]


# ---- an engine that stands still with an answer in hand ------------------------------------------


@pytest.fixture
def stalling() -> Iterator[Gated]:
    """Two input sizes; whoever is answered at the smaller one is run again at the larger one."""
    started = Gated(sized_runner(), create_policy=lambda *_: Upgrades(), family=SIZES)
    yield started
    started.stop()


@pytest.mark.parametrize("accept", ["*/*", SSE, NDJSON])
def test_a_client_has_the_answer_in_hand_while_the_engine_stands_still(
    stalling: Gated, accept: str
) -> None:
    """The run at the larger size has not ended when the reply is there."""
    stalling.runner.let()
    headers = {"Content-Type": "image/jpeg", "Accept": accept}
    # The budget has to end. Where the machine stood still for that long, a larger one is tried.
    for budget_ms in (1500, 6000, 24_000):
        reply = httpx.post(
            f"{stalling.url}/v1/detect",
            content=JPEG,
            headers={**headers, "X-Deadline-Ms": str(budget_ms)},
            timeout=PATIENCE_S,
        )
        if reply.status_code == 200 or stalling.runner.runs:
            break
    assert stalling.runner.runs == ["exit_1", "exit_1@1"]
    assert reply.status_code == 200
    if accept == "*/*":
        answers, done = [reply.json()], None
        assert "in-hand;dur=" in reply.headers["server-timing"]
    else:
        *events, last = read_events(accept, reply.text.splitlines())
        answers, done = [event.data for event in events], last.data
        assert (done["reason"], done["operating_point"]) == ("deadline", "64x48/1")
    assert [(each["operating_point"], each["degraded"]) for each in answers] == [("64x48/1", True)]
    assert stalling.sample("punctual_held_requests") == 1
    assert stalling.sample("punctual_engine_results_total", result="answered") == 0
    stalling.runner.let()
    eventually(lambda: stalling.sample("punctual_held_requests") == 0)
    assert stalling.sample("punctual_engine_results_total", result="answered") == 1
    assert stalling.sample("punctual_answers_in_hand_total", end="deadline") == 1
    assert stalling.sample("punctual_requests_total", outcome="degraded") == 1


def test_a_better_answer_that_comes_in_time_is_merged_and_sent(stalling: Gated) -> None:
    stalling.runner.let(2)
    with stalling.streaming(SSE) as events:
        sent = [(each.name, each.data["operating_point"]) for each in events]
    both = "64x48/1+128x96/1"
    assert sent == [("detections", "64x48/1"), ("detections", both), ("done", both)]
