"""Both clients: against the gateway itself, and against a server that says what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from punctual import (
    AsyncClient,
    BudgetInfeasible,
    Client,
    InvalidRequest,
    Overloaded,
    Reply,
    UnexpectedReply,
    Unreachable,
)
from punctual.exchange import MAX_REPLY_BYTES
from tests.serving.fakes import JPEG, FakeClock, picture
from tests.serving.gateway import Gateway

Detect = Callable[..., Reply]

ANSWER = {
    "model": "cells",
    "request_id": "1",
    "image": {"width": 64, "height": 48},
    "detections": [{"box": [1, 2, 3, 4], "score": 0.9, "label": "square", "class_id": 1}],
    "operating_point": "128x96/3",
    "exit_depth": 3,
    "max_depth": 3,
    "degraded": False,
    "expected_ap": 0.6,
    "budget_ms": 80,
    "elapsed_ms": 20,
    "slack_ms": 60,
    "predicted_ms": 12,
    "track_ids": "of a newer server",
}


def refusal(retry_after: str | None = "2") -> httpx.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    body = {"type": "urn:punctual:problem:overloaded", "title": "Full", "detail": "Later."}
    return httpx.Response(503, json=body, headers=headers)


class World:
    """A client, sync or async, of a server that gives ``replies`` in turn, by a clock that only
    waiting moves."""

    def __init__(self, kind: str, *replies: httpx.Response | Exception, **options: Any) -> None:
        self.clock = FakeClock()
        self.waited: list[float] = []
        self.seen: list[httpx.Request] = []
        self._kind = kind
        self._replies = iter(replies)
        self._options = {"clock": self.clock, **options}

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        self.clock.now += 0.5
        reply = next(self._replies)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.clock.now += seconds

    async def _sleep_async(self, seconds: float) -> None:
        self._sleep(seconds)

    def detect(self, image: Any = JPEG, **options: Any) -> Reply:
        transport = httpx.MockTransport(self._answer)
        if self._kind == "sync":
            with Client(transport=transport, sleep=self._sleep, **self._options) as client:
                return client.detect(image, **options)

        async def run() -> Reply:
            async with AsyncClient(
                transport=transport, sleep=self._sleep_async, **self._options
            ) as client:
                return await client.detect(image, **options)

        return asyncio.run(run())


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_reply_says_what_was_found_and_how_long_it_took(kind: str) -> None:
    timing = {"Server-Timing": "read;dur=1, engine;dur=12"}
    world = World(kind, httpx.Response(200, json=ANSWER, headers=timing))
    reply = world.detect(deadline_ms=80)
    assert (reply.boxes, reply.labels, reply.scores) == (((1, 2, 3, 4),), ("square",), (0.9,))
    assert (reply.operating_point, reply.width, reply.height) == ("128x96/3", 64, 48)
    assert (reply.timings.slack_ms, reply.timings.round_trip_ms) == (60, 500)
    assert reply.timings.stages_ms == {"read": 1, "engine": 12}
    assert reply.num_attempts == 1
    assert reply.raw["track_ids"] == "of a newer server"
    (request,) = world.seen
    assert (request.method, request.url.path) == ("POST", "/v1/detect")
    assert request.headers["X-Deadline-Ms"] == "80"
    assert request.content == JPEG
    assert "authorization" not in request.headers


def test_a_key_is_shown_and_a_prefix_kept(kind: str) -> None:
    world = World(
        kind, httpx.Response(200, json=ANSWER), key="secret", url="https://example.org/a/"
    )
    world.detect()
    (request,) = world.seen
    assert request.headers["Authorization"] == "Bearer secret"
    assert str(request.url) == "https://example.org/a/v1/detect"


def test_it_asks_again_when_the_server_says_to(kind: str) -> None:
    world = World(kind, refusal("2"), refusal("1"), httpx.Response(200, json=ANSWER))
    reply = world.detect(patience_s=10)
    assert reply.num_attempts == len(world.seen) == 3
    assert reply.timings.round_trip_ms == 500, "of the attempt that was answered"
    assert [round(wait_s) for wait_s in world.waited] == [2, 1]


@pytest.mark.parametrize(
    ("patience_s", "retry_after", "num_asked"),
    [(0, "1", 1), (5, "9", 1), (5, None, 1), (5, "3", 2)],
)
def test_it_gives_up_within_the_callers_patience(
    kind: str, patience_s: float, retry_after: str | None, num_asked: int
) -> None:
    world = World(kind, *[refusal(retry_after)] * 9, patience_s=patience_s)
    started_s = world.clock.now
    with pytest.raises(Overloaded):
        world.detect()
    assert len(world.seen) == num_asked
    assert sum(world.waited) <= patience_s
    assert world.clock.now - started_s <= patience_s + 0.5 * num_asked


def test_what_waiting_does_not_help_is_not_tried_again(kind: str) -> None:
    problem = {
        "type": "urn:punctual:problem:budget-infeasible",
        "title": "Too small",
        "detail": "",
        "min_budget_ms": 12,
    }
    world = World(kind, httpx.Response(422, json=problem))
    with pytest.raises(BudgetInfeasible) as raised:
        world.detect(patience_s=10)
    assert raised.value.min_budget_ms == 12


def test_a_reply_has_a_bound(kind: str) -> None:
    world = World(kind, httpx.Response(200, content=b" " * (MAX_REPLY_BYTES + 1)))
    with pytest.raises(UnexpectedReply, match=f"more than {MAX_REPLY_BYTES} bytes"):
        world.detect()


def test_a_key_is_shown_to_nobody_else(kind: str) -> None:
    elsewhere = {"Location": "https://example.net/v1/detect"}
    world = World(kind, httpx.Response(307, headers=elsewhere), key="secret")
    with pytest.raises(UnexpectedReply, match="307"):
        world.detect()
    assert [request.url.host for request in world.seen] == ["127.0.0.1"]


def test_a_server_that_does_not_answer_is_unreachable(kind: str) -> None:
    world = World(kind, httpx.ConnectError("refused"))
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:8000 does not answer: refused"):
        world.detect(patience_s=10)


def test_a_proxy_is_no_server(kind: str) -> None:
    with pytest.raises(UnexpectedReply, match="302"):
        World(kind, httpx.Response(302, headers={"Location": "https://x"})).detect()


def test_the_models_can_be_asked_for() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"models": []}))
    with Client(transport=transport) as client:
        assert client.models() == {"models": []}


class TestTheGateway:
    """The real one, over a fake engine, without a socket between."""

    @pytest.fixture
    def detect(self) -> Detect:
        gateway = Gateway()

        def ask(image: Any = JPEG, **options: Any) -> Reply:
            async def run() -> Reply:
                transport = httpx.ASGITransport(gateway.app, raise_app_exceptions=False)
                async with AsyncClient("http://gateway", transport=transport) as client:
                    return await client.detect(image, **options)

            return asyncio.run(run())

        return ask

    def test_finds_boxes(self, detect: Detect, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(JPEG)
        for image in (JPEG, tmp_path / "a.jpg", picture(64, 48)):
            reply = detect(image, deadline_ms=500, max_depth=2, classes=["Square"])
            assert set(reply.labels) == {"square"}
            assert (reply.exit_depth, reply.max_depth, reply.timings.budget_ms) == (2, 2, 500)
            assert set(reply.timings.stages_ms) >= {"read", "decode", "queue", "engine", "total"}

    def test_refuses_in_words(self, detect: Detect) -> None:
        for image, options, slug in (
            (b"GIF89a", {}, "unsupported-image"),
            (JPEG[:200], {}, "invalid-image"),
            (JPEG, {"classes": ["unicorn"]}, "invalid-parameter"),
        ):
            with pytest.raises(InvalidRequest) as raised:
                detect(image, **options)
            assert raised.value.slug == slug
            assert raised.value.request_id

    def test_says_what_budget_would_do(self, detect: Detect) -> None:
        with pytest.raises(BudgetInfeasible) as raised:
            detect(JPEG, deadline_ms=1, min_depth=3)
        assert detect(JPEG, deadline_ms=raised.value.min_budget_ms, min_depth=3).exit_depth == 3
