"""Replies that grow, over a fake backend: what is told, and how each ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.types import Message

from serving.api.connection import DEPARTURE, Departure
from serving.api.schemas import DetectionResponse, Done, ProblemDetails
from serving.core.catalog import Exit
from serving.core.errors import (
    BackendError,
    BackendUnavailable,
    DeadlineExceeded,
    Overloaded,
    RequestCancelled,
    ShedReason,
)
from serving.core.ports import Image
from serving.core.request import Answered, Request
from tests.serving.events import NDJSON, SSE, Event, read_events
from tests.serving.fakes import CATALOG, FAMILY, JPEG, Growth, family_of, forever
from tests.serving.gateway import Gateway, slug

pytestmark = pytest.mark.anyio


async def stream(
    gateway: Gateway, media_type: str = SSE, headers: dict[str, str] | None = None, **params: Any
) -> tuple[httpx.Response, list[Event]]:
    """One request, and the events of its reply."""
    accept = {"Accept": media_type, **(headers or {})}
    response = await gateway.detect(headers=accept, params=params)
    assert response.headers["content-type"] == media_type
    return response, list(read_events(media_type, response.text.splitlines()))


def depths(events: list[Event]) -> list[int]:
    return [event.data["exit_depth"] for event in events if event.name == "detections"]


def answering(gateway: Gateway, *steps: int | float | BaseException) -> Growth:
    """Answers at these depths (int) after these seconds (float), then fails or ends."""

    async def growth(image: Image, request: Request) -> AsyncGenerator[Answered, None]:
        for step in steps:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, float):
                gateway.clock.now += step
            else:
                yield await gateway.backend.answer(image, request, step)

    return growth


def hanging(gateway: Gateway, closed: asyncio.Event, *answered: int) -> Growth:
    """Answers at these depths and then no more; ``closed`` is set when it is given up."""

    async def growth(image: Image, request: Request) -> AsyncGenerator[Answered, None]:
        try:
            for depth in answered:
                yield await gateway.backend.answer(image, request, depth)
            await forever()
        finally:
            closed.set()

    return growth


class TestAnswers:
    @pytest.mark.parametrize("media_type", [SSE, NDJSON])
    async def test_each_is_what_it_would_be_alone(self, gateway: Gateway, media_type: str) -> None:
        gateway.backend.growth = answering(gateway, 0.010, 1, 0.010, 2, 0.010, 3, 0.005)
        headers = {"X-Deadline-Ms": "9000", "X-Request-Id": "r1", "Prefer": "wait=9"}
        wanted = {"score_threshold": 0.05, "classes": "circle"}
        response, events = await stream(gateway, media_type, headers, **wanted)
        assert response.status_code == 200
        assert [event.name for event in events] == ["detections"] * 3 + ["done"]
        assert [len(event.data["detections"]) for event in events[:3]] == [2] * 3
        for depth, event in enumerate(events[:3], start=1):
            alone = await gateway.detect(
                headers=headers,
                params={"min_depth": depth, "max_depth": depth, **wanted},
            )
            assert event.data == {
                **alone.json(),
                "max_depth": 3,
                "degraded": depth < 3,
                "elapsed_ms": 10.0 * depth,
                "slack_ms": 9000.0 - 10.0 * depth,
            }
            assert event.number == (depth if media_type == SSE else None)
            DetectionResponse.model_validate(event.data)
        assert events[3].number is None
        assert events[3].data == {
            "request_id": "r1",
            "model": "cells",
            "reason": "max-depth",
            "num_answers": 3,
            "version": FAMILY.release,
            "operating_point": "128x96/3",
            "exit_depth": 3,
            "max_depth": 3,
            "degraded": False,
            "expected_ap": 0.6,
            "budget_ms": 9000.0,
            "elapsed_ms": 35.0,
            "slack_ms": 8965.0,
        }
        Done.model_validate(events[3].data)

    async def test_ids_count_the_answers_of_all_sizes(self) -> None:
        """Sizes have exits of the same depths, and the first exit may be left out."""
        gateway = Gateway(family_of(CATALOG, replace(CATALOG, name="other")))

        async def growth(image: Image, request: Request) -> AsyncGenerator[Answered, None]:
            for model in (0, 1):
                for depth in (2, 3):
                    answered = await gateway.backend.answer(image, request, depth)
                    yield replace(answered, model=model)

        gateway.backend.growth = growth
        _, events = await stream(gateway, min_depth=2)
        assert [event.number for event in events] == [1, 2, 3, 4, None]

    async def test_the_head_is_that_of_the_first(self, gateway: Gateway) -> None:
        gateway.backend.growth = answering(gateway, 0.010, 1, 0.010, 3)
        response, _ = await stream(gateway, headers={"X-Request-Id": "r1", "Prefer": "wait=1"})
        assert "total;dur=10.0" in response.headers["server-timing"]
        assert "content-length" not in response.headers
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["vary"] == "Accept"
        assert response.headers["x-request-id"] == "r1"
        assert response.headers["preference-applied"] == "wait=1"

    async def test_the_plain_reply_says_that_there_are_others(self, gateway: Gateway) -> None:
        response = await gateway.detect(headers={"Accept": "*/*"})
        assert response.headers["content-type"] == "application/json"
        assert response.headers["vary"] == "Accept"
        assert gateway.sample("punctual_growing_answers_count") == 0

    async def test_what_the_backend_gets(self, gateway: Gateway) -> None:
        _, events = await stream(gateway, headers={"X-Deadline-Ms": "8000"}, min_depth=2)
        ((image, request),) = gateway.backend.seen
        assert image.shape == (96, 128, 3)
        assert request.streaming
        assert (request.min_depth, request.max_depth) == (2, 3)
        assert request.deadline_s == pytest.approx(gateway.clock.now + 7.997)
        assert depths(events) == [2, 3]

    async def test_each_is_sent_before_the_next_is_there(self, gateway: Gateway) -> None:
        sent: list[Message] = []

        async def growth(image: Image, request: Request) -> AsyncGenerator[Answered, None]:
            for depth in (1, 2, 3):
                yield await gateway.backend.answer(image, request, depth)
                assert len(sent) == 1 + depth  # the head, and as many events

        gateway.backend.growth = growth
        await Conversation(gateway, sent).hold()
        assert [message["type"] for message in sent] == [
            "http.response.start",
            *["http.response.body"] * 4,
        ]
        assert [message["more_body"] for message in sent[1:]] == [True, True, True, False]


class TestEnds:
    @pytest.mark.parametrize(
        ("steps", "told", "reason", "outcome"),
        [
            ((1, 2, 3), [1, 2, 3], "max-depth", "ok"),
            ((3,), [3], "max-depth", "ok"),
            ((1, 2), [1, 2], "concluded", "degraded"),
            ((1, 8.9999, 2), [1, 2], "concluded", "degraded"),
            ((1, 9.0001, 2, 3), [1], "deadline", "degraded"),
            ((5.0, 1, 2, 4.0001, 3), [1, 2], "deadline", "degraded"),
            ((1, 8.9965), [1], "deadline", "degraded"),  # which is 3 ms before the budget is over
        ],
    )
    async def test_well(
        self,
        gateway: Gateway,
        steps: tuple[int | float, ...],
        told: list[int],
        reason: str,
        outcome: str,
    ) -> None:
        gateway.backend.growth = answering(gateway, *steps)
        _, events = await stream(gateway, headers={"X-Deadline-Ms": "9000"})
        assert depths(events) == told
        assert all(event.data["slack_ms"] >= 0 for event in events[:-1])
        assert events[-1].name == "done"
        done = Done.model_validate(events[-1].data)
        assert (done.reason, done.num_answers, done.exit_depth) == (reason, len(told), told[-1])
        assert gateway.outcomes() == {outcome: 1}
        assert gateway.answers(0, told[-1]) == 1
        assert gateway.sample("punctual_growing_answers_sum") == len(told)

    async def test_at_the_best_exit(self) -> None:
        exits = tuple(Exit(d, ap, ap, {}) for d, ap in enumerate((0.5, 0.6, 0.59), start=1))
        gateway = Gateway(family_of(replace(CATALOG, exits=exits)))
        gateway.backend.growth = answering(gateway, 1, 2)
        _, events = await stream(gateway)
        done = Done.model_validate(events[-1].data)
        assert (done.reason, done.exit_depth, done.degraded) == ("best", 2, False)

    async def test_at_the_deadline_when_the_engine_hangs(self, gateway: Gateway) -> None:
        closed = asyncio.Event()
        gateway.backend.growth = hanging(gateway, closed, 1)
        _, events = await stream(gateway, headers={"X-Deadline-Ms": "500"})
        assert [event.name for event in events] == ["detections", "done"]
        assert events[1].data["reason"] == "deadline"
        assert closed.is_set()
        assert gateway.outcomes() == {"degraded": 1}

    @pytest.mark.parametrize(
        ("steps", "headers", "expected", "outcome"),
        [
            ((), {"X-Deadline-Ms": "1"}, "budget-infeasible", "infeasible"),
            ((), {"X-Deadline-Ms": "soon"}, "invalid-parameter", "invalid"),
            ((), {"Content-Type": "text/plain"}, "unsupported-image", "invalid"),
            ((9.1, 1), {"X-Deadline-Ms": "9000"}, "deadline-exceeded", "late"),
            ((Overloaded("x", ShedReason.EVICTED_EXPIRED),), {}, "overloaded", "evicted"),
            ((BackendUnavailable("x"),), {}, "backend-unavailable", "error"),
            ((DeadlineExceeded("x"),), {}, "deadline-exceeded", "late"),
            ((RequestCancelled("x"),), {}, "cancelled", "cancelled"),
            ((RuntimeError("x"),), {}, "internal", "error"),
            ((), {}, "backend-error", "error"),
        ],
    )
    async def test_before_the_first_answer_as_any_other(
        self,
        gateway: Gateway,
        steps: tuple[Any, ...],
        headers: dict[str, str],
        expected: str,
        outcome: str,
    ) -> None:
        gateway.backend.growth = answering(gateway, *steps)
        async with gateway.busy():
            assert slug(await gateway.detect(headers={"Accept": SSE, **headers})) == expected
            assert gateway.outcomes() == {outcome: 1}
        assert gateway.sample("punctual_growing_answers_count") == 1
        assert gateway.sample("punctual_growing_answers_sum") == 0

    async def test_a_hung_engine_without_an_answer_is_late(self, gateway: Gateway) -> None:
        closed = asyncio.Event()
        gateway.backend.growth = hanging(gateway, closed)
        refused = await gateway.detect(headers={"Accept": SSE, "X-Deadline-Ms": "500"})
        assert slug(refused) == "deadline-exceeded"
        assert closed.is_set()

    @pytest.mark.parametrize("media_type", [SSE, NDJSON])
    @pytest.mark.parametrize(
        ("error", "expected", "status"),
        [(BackendUnavailable("gone"), "backend-unavailable", 503), (KeyError(), "internal", 500)],
    )
    async def test_after_an_answer_an_error_is_an_event(
        self,
        gateway: Gateway,
        caplog: pytest.LogCaptureFixture,
        media_type: str,
        error: Exception,
        expected: str,
        status: int,
    ) -> None:
        gateway.backend.growth = answering(gateway, 1, error)
        response, events = await stream(gateway, media_type)
        assert response.status_code == 200
        assert [event.name for event in events] == ["detections", "error"]
        problem = ProblemDetails.model_validate(events[1].data)
        assert problem.type.endswith(":" + expected)
        assert problem.status == status
        assert problem.request_id == response.headers["x-request-id"]
        assert gateway.outcomes() == {"error": 1}
        assert gateway.sample("punctual_growing_answers_sum") == 1
        defects = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(defects) == (expected == "internal")

    async def test_leave_the_server_empty(self) -> None:
        gateway = Gateway(max_requests=1)
        for steps in ((1, 2), (1, BackendError("x")), (BackendError("x"),)):
            gateway.backend.growth = answering(gateway, *steps)
            await gateway.detect(headers={"Accept": SSE})
        assert (await gateway.detect()).status_code == 200


class Conversation:
    """One request by ASGI itself, for clients that httpx is too good for. The client leaves once
    the departure says so; nothing more is read by it once ``unread`` messages have been sent."""

    def __init__(self, gateway: Gateway, sent: list[Message], unread: int = 100) -> None:
        self.gateway = gateway
        self.sent = sent
        self.unread = unread
        self.departure = Departure()

    async def hold(self, budget_ms: float = 1000.0) -> None:
        headers = {"content-type": "image/jpeg", "accept": SSE, "x-deadline-ms": str(budget_ms)}
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/detect",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "state": {DEPARTURE: self.departure},
        }
        await self.gateway.app(scope, self.receive, self.send)

    async def receive(self) -> Message:
        return {"type": "http.request", "body": JPEG, "more_body": False}

    async def send(self, message: Message) -> None:
        if len(self.sent) >= self.unread:
            await forever()
        self.sent.append(message)


class TestClients:
    async def test_one_that_leaves_cancels_the_rest(self, gateway: Gateway) -> None:
        closed = asyncio.Event()
        conversation = Conversation(gateway, [])

        async def growth(image: Image, request: Request) -> AsyncGenerator[Answered, None]:
            yield await gateway.backend.answer(image, request, 1)
            conversation.departure.leave()
            try:
                await forever()
            finally:
                closed.set()

        gateway.backend.growth = growth
        await conversation.hold()
        assert closed.is_set()
        assert len(conversation.sent) == 2  # the head and one event: it was told no more
        assert gateway.outcomes() == {"cancelled": 1}
        assert gateway.sample("punctual_growing_answers_sum") == 1
        assert gateway.answers(0, 1) == 0

    async def test_one_that_leaves_before_the_first_answer(self, gateway: Gateway) -> None:
        closed = asyncio.Event()
        gateway.backend.growth = hanging(gateway, closed)
        conversation = Conversation(gateway, [])
        holding = asyncio.create_task(conversation.hold())
        while not gateway.backend.seen:
            await asyncio.sleep(0)
        conversation.departure.leave()
        await holding
        assert closed.is_set()
        assert conversation.sent[0]["status"] == 499
        assert gateway.outcomes() == {"cancelled": 1}

    @pytest.mark.parametrize(
        ("unread", "told", "outcome"),
        [(0, 0, "cancelled"), (1, 0, "cancelled"), (2, 1, "degraded"), (4, 3, "ok")],
    )
    async def test_one_that_does_not_read_is_hung_up_on(
        self,
        gateway: Gateway,
        monkeypatch: pytest.MonkeyPatch,
        unread: int,
        told: int,
        outcome: str,
    ) -> None:
        """After its deadline and a little more, whatever is left to tell it."""
        monkeypatch.setattr("serving.api.detect.STREAM_GRACE_S", 0.01)
        conversation = Conversation(gateway, [], unread)
        await conversation.hold(budget_ms=500)
        assert len(conversation.sent) == unread
        assert gateway.outcomes() == {outcome: 1}
        assert gateway.sample("punctual_growing_answers_sum") == told
