from __future__ import annotations

import asyncio
import json
import struct
import threading
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.types import Message

from serving.api.admission import (
    MIN_BUDGET_HEADROOM,
    OVERHEAD_SEED_S,
    OVERHEAD_WINDOW_S,
    REJECT_WAIT_FACTOR,
)
from serving.api.backlog import MIN_ANSWERS
from serving.api.connection import DEPARTURE, Departure
from serving.api.reply_times import REFRESH_S, SEED_S
from serving.api.schemas import DetectionResponse
from serving.core.catalog import Exit
from serving.core.errors import (
    BackendError,
    BackendUnavailable,
    DeadlineExceeded,
    FrameSuperseded,
    Overloaded,
    RequestCancelled,
    ShedReason,
    TooManyRequests,
)
from serving.core.family import Family
from serving.core.model_entry import MergedAccuracy, Merging, ModelEntry, SizedExit
from serving.core.ports import Image
from serving.core.request import Answered, Request
from serving.imaging.decoding import decode_all
from serving.observability.request_record import IN_HAND_ENDS, OUTCOMES
from tests.serving.events import NDJSON
from tests.serving.fakes import (
    CATALOG,
    DETECTIONS,
    FAMILY,
    JPEG,
    FakeBackend,
    encode,
    family_of,
    forever,
    picture,
)
from tests.serving.gateway import Gateway, problem, slug
from tests.serving.imaging.files import flat_webp, png, with_scans

pytestmark = pytest.mark.anyio

PROGRESSIVE = encode(picture(640, 480), "JPEG", progressive=True)


FAMILY_OF_TWO = family_of(
    CATALOG, replace(CATALOG, name="large", exits=(Exit(1, 0.5, 0.5, {}), Exit(2, 0.8, 0.8, {})))
)


UNLUCKY = (
    ShedReason.REJECTED_EXPIRED,
    ShedReason.REJECTED_OVERLOAD,
    ShedReason.EVICTED_EXPIRED,
)


def raising(error: BaseException) -> Any:
    async def behaviour(*_: object) -> Answered:
        raise error

    return behaviour


class TestReply:
    async def test_all_of_it(self, gateway: Gateway) -> None:
        async def behaviour(_: Image, request: Request) -> Answered:
            started_s = gateway.clock.now + 0.002  # 2 ms in the queue, then 20 in the engine
            gateway.clock.now += 0.022
            return Answered(request, DETECTIONS, 2, started_s, gateway.clock.now, 0.020, 0.018)

        gateway.backend.behaviour = behaviour
        response = await gateway.detect(
            headers={"X-Deadline-Ms": "9000", "X-Request-Id": "r1"}, params={"score_threshold": 0.5}
        )
        assert response.status_code == 200
        assert response.json() == {
            "model": "cells",
            "request_id": "r1",
            "image": {"width": 64, "height": 48},
            # 64 x 48 lies twice as large in the input of 128 x 96.
            "detections": [
                {"box": [4.0, 8.0, 12.0, 16.0], "score": 0.9, "label": "square", "class_id": 1},
                {"box": [0.0, 0.0, 2.0, 2.0], "score": 0.5, "label": "circle", "class_id": 0},
            ],
            "version": FAMILY.release,
            "operating_point": "128x96/2",
            "exit_depth": 2,
            "max_depth": 3,
            "degraded": True,
            "expected_ap": 0.5,
            "budget_ms": 9000.0,
            "elapsed_ms": 22.0,
            "slack_ms": 8978.0,
            "predicted_ms": 18.0,
        }
        assert response.headers["server-timing"] == (
            'read;dur=0.0, decode;dur=0.0, queue;dur=2.0, engine;dur=20.0;desc="depth=2", '
            "total;dur=22.0"
        )
        assert response.headers["x-request-id"] == "r1"
        assert response.headers["cache-control"] == "no-store"
        DetectionResponse.model_validate(response.json())

    async def test_what_the_backend_gets(self, gateway: Gateway) -> None:
        await gateway.detect(params={"min_depth": 2}, headers={"X-Deadline-Ms": "8000"})
        await gateway.detect()
        (image, first), (_, second) = gateway.backend.seen
        now_s = gateway.clock.now
        assert (image.shape, image.dtype) == ((96, 128, 3), np.uint8)
        assert (first.min_depth, first.max_depth) == (2, 3)
        assert first.arrival_s == now_s
        assert first.deadline_s == pytest.approx(now_s + 7.997)  # 3 ms are kept for the reply
        assert second.deadline_s == pytest.approx(now_s + 0.997)
        assert second.id > first.id

    async def test_not_degraded_when_it_got_what_it_asked(self, gateway: Gateway) -> None:
        reply = (await gateway.detect(params={"max_depth": 2})).json()
        assert (reply["exit_depth"], reply["max_depth"], reply["degraded"]) == (2, 2, False)

    async def test_of_the_model_that_answered(self) -> None:
        gateway = Gateway(FAMILY_OF_TWO)

        async def behaviour(_: Image, request: Request) -> Answered:
            now_s = gateway.clock.now
            return Answered(request, DETECTIONS, 2, now_s, now_s, 0.0, 0.018, model=1)

        first = (await gateway.detect()).json()
        gateway.backend.behaviour = behaviour
        second = (await gateway.detect()).json()
        names = ("model", "operating_point", "max_depth", "degraded", "expected_ap")
        assert [first[name] for name in names] == ["cells", "cells@128x96/3", 3, True, 0.6]
        assert [second[name] for name in names] == ["large", "large@128x96/2", 2, False, 0.8]
        assert [first["exit_depth"], second["exit_depth"]] == [3, 2]
        assert gateway.outcomes() == {"degraded": 1, "ok": 1}
        assert gateway.answers(1, 2) == 1

    @pytest.mark.parametrize("depth", [1, 2, 3])
    async def test_degraded_if_a_better_exit_was_allowed(self, depth: int) -> None:
        exits = tuple(Exit(d, ap, ap, {}) for d, ap in enumerate((0.5, 0.6, 0.59), start=1))
        gateway = Gateway(family_of(replace(CATALOG, exits=exits)))
        reply = (await gateway.detect(params={"min_depth": depth, "max_depth": depth})).json()
        assert not reply["degraded"]

        async def behaviour(_: Image, request: Request) -> Answered:
            return Answered(request, DETECTIONS, depth, 0.0, gateway.clock.now, 0.0, 0.018)

        gateway.backend.behaviour = behaviour
        reply = (await gateway.detect(headers={"X-Deadline-Ms": "10000"})).json()
        assert (reply["max_depth"], reply["degraded"]) == (3, depth != 2)
        ratios = gateway.sample("punctual_exit_depth_ratio_sum")
        assert ratios == pytest.approx(1 + depth / 3)

    async def test_larger_budgets_are_cut_and_it_says_so(self, gateway: Gateway) -> None:
        reply = (await gateway.detect(headers={"X-Deadline-Ms": "99999999"})).json()
        assert reply["budget_ms"] == 10_000

    async def test_a_preference_is_applied(self, gateway: Gateway) -> None:
        response = await gateway.detect(headers={"Prefer": "wait=1"})
        assert response.headers["preference-applied"] == "wait=1"

    async def test_form(self, gateway: Gateway) -> None:
        async with gateway.client() as client:
            files = {"image": ("a.jpg", JPEG, "image/jpeg")}
            assert (await client.post("/v1/detect", files=files)).status_code == 200

    async def test_content_decides_not_its_name(self, gateway: Gateway) -> None:
        data = encode(picture(30, 20), "PNG")
        assert (await gateway.detect(data)).json()["image"] == {"width": 30, "height": 20}


async def slow_body() -> AsyncIterator[bytes]:
    yield JPEG[:10]
    await asyncio.Event().wait()


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "headers", "expected"),
        [
            (b"", {}, "invalid-image"),
            (b"hello", {}, "unsupported-image"),
            (JPEG[:-200], {}, "invalid-image"),
            (JPEG, {"Content-Type": "text/plain"}, "unsupported-image"),
            (JPEG, {"Content-Encoding": "br"}, "unsupported-image"),
            (JPEG, {"Content-Type": "multipart/form-data"}, "invalid-request"),
            (JPEG, {"X-Deadline-Ms": "soon"}, "invalid-parameter"),
            (png(40_000, 40_000), {}, "payload-too-large"),
            (JPEG + bytes(2000), {}, "payload-too-large"),
        ],
    )
    async def test_of_what_was_sent(
        self, content: bytes, headers: dict[str, str], expected: str
    ) -> None:
        gateway = Gateway(max_body_bytes=len(JPEG) + 1000)
        assert slug(await gateway.detect(content, headers=headers)) == expected
        assert gateway.outcomes() == {"invalid": 1}
        assert gateway.backend.seen == []

    async def test_of_a_body_without_a_length(self) -> None:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield bytes(100)

        gateway = Gateway(max_body_bytes=2000)
        assert slug(await gateway.detect(body())) == "payload-too-large"

    async def test_of_unknown_parameters(self, gateway: Gateway) -> None:
        assert slug(await gateway.detect(params={"depth": 2})) == "invalid-parameter"

    async def test_of_a_budget_that_cannot_do(self, gateway: Gateway) -> None:
        gateway.backend.exit_s = 1.0
        for depth, budget_ms in ((1, "1000"), (3, "3000"), (1, "0.001")):
            refused = await gateway.detect(
                params={"min_depth": depth}, headers={"X-Deadline-Ms": budget_ms}
            )
            assert slug(refused) == "budget-infeasible"
            body = problem(refused)
            assert body["budget_ms"] == float(budget_ms)
            enough = {"X-Deadline-Ms": str(body["min_budget_ms"])}
            accepted = await gateway.detect(params={"min_depth": depth}, headers=enough)
            assert accepted.status_code == 200
        assert gateway.outcomes()["infeasible"] == 3

    async def test_of_a_budget_below_the_floor(self) -> None:
        gateway = Gateway(min_budget_ms=500)
        refused = problem(await gateway.detect(headers={"X-Deadline-Ms": "499"}))
        assert refused["min_budget_ms"] == 500

    async def test_of_a_body_that_took_too_much_of_the_budget(self, gateway: Gateway) -> None:
        gateway.backend.exit_s = 1.0

        async def body() -> AsyncIterator[bytes]:
            yield JPEG[:10]
            gateway.clock.now += 5.0
            yield JPEG[10:]

        # 1.5 s would do, had it come at once. Nobody else is here: more must be allowed.
        for budget_ms in ("5500", "900"):
            response = await gateway.detect(body(), headers={"X-Deadline-Ms": budget_ms})
            assert slug(response) == "budget-infeasible"
            enough_ms = problem(response)["min_budget_ms"]
            assert 6000 < enough_ms < 5000 + 1100 * MIN_BUDGET_HEADROOM
            answered = await gateway.detect(body(), headers={"X-Deadline-Ms": str(enough_ms)})
            assert answered.status_code == 200

    async def test_of_a_body_that_took_too_much_of_the_budget_of_a_busy_server(
        self, gateway: Gateway
    ) -> None:
        gateway.backend.exit_s = 1.0

        async def body() -> AsyncIterator[bytes]:
            yield JPEG[:10]
            gateway.clock.now += 5.0
            yield JPEG[10:]

        async with gateway.busy():
            # Not too small a budget, but too little is left.
            refused = problem(await gateway.detect(body(), headers={"X-Deadline-Ms": "5500"}))
            assert refused["reason"] == "rejected-expired"
            assert refused["retry_after_ms"] == 1000, "what the other one takes"
            # Nor does a slow body make a budget that is too small look as if it needed far more.
            refused = problem(await gateway.detect(body(), headers={"X-Deadline-Ms": "900"}))
            assert 900 < refused["min_budget_ms"] < 1200 * MIN_BUDGET_HEADROOM

    async def test_of_a_body_that_never_ends(self, gateway: Gateway) -> None:
        refused = await gateway.detect(slow_body(), headers={"X-Deadline-Ms": "20"})
        assert slug(refused) == "body-timeout"
        assert refused.status_code == 408
        assert gateway.outcomes() == {"invalid": 1}

    async def test_while_starting(self, gateway: Gateway) -> None:
        gateway.backend.ready = False
        assert slug(await gateway.detect()) == "backend-unavailable"
        assert gateway.outcomes() == {"error": 1}

    async def test_while_closing(self, gateway: Gateway) -> None:
        gateway.lifecycle.drain()
        assert (await gateway.detect()).status_code == 200
        gateway.lifecycle.close()
        refused = problem(await gateway.detect())
        assert refused["reason"] == "rejected-draining"
        assert gateway.outcomes() == {"ok": 1, "rejected": 1}

    async def test_bodies_that_have_not_arrived_leave_room_for_others(self) -> None:
        gateway = Gateway(max_requests=1)
        begun = asyncio.Event()

        async def unfinished() -> AsyncIterator[bytes]:
            yield b"\xff"
            begun.set()
            await forever()

        slow = [asyncio.create_task(gateway.detect(unfinished())) for _ in range(3)]
        await begun.wait()
        assert (await gateway.detect()).status_code == 200
        for each in slow:
            each.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert (await gateway.detect()).status_code == 200

    async def test_whoever_arrives_when_the_places_are_taken_is_refused(self) -> None:
        gateway = Gateway(max_requests=1)
        gateway.backend.behaviour = forever
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow_body() -> AsyncIterator[bytes]:
            yield JPEG[:100]
            begun.set()
            await go_on.wait()
            yield JPEG[100:]

        slow = asyncio.create_task(gateway.detect(slow_body()))
        await begun.wait()
        first = asyncio.create_task(gateway.detect())
        while not gateway.backend.seen:
            await asyncio.sleep(0.001)
        go_on.set()
        assert problem(await slow)["reason"] == "rejected-saturated"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    async def test_bodies_of_all_requests_have_a_bound(self) -> None:
        gateway = Gateway(max_body_bytes=1024, max_bodies_bytes=1024)
        begun = asyncio.Event()

        async def unfinished() -> AsyncIterator[bytes]:
            yield bytes(1000)
            begun.set()
            await forever()

        slow = asyncio.create_task(gateway.detect(unfinished()))
        await begun.wait()
        assert (await gateway.detect(JPEG[:500])).status_code == 400  # it was read
        assert problem(await slow)["reason"] == "rejected-saturated"

    async def test_of_too_many_at_once(self) -> None:
        gateway = Gateway(max_requests=1)
        gateway.backend.behaviour = forever
        first = asyncio.create_task(gateway.detect())
        while not gateway.backend.seen:
            await asyncio.sleep(0.001)
        before = gateway.sample("punctual_full_depth_demand_ratio")
        assert problem(await gateway.detect())["reason"] == "rejected-saturated"
        # Whoever is turned away at the door is demand as well, and most of it in a flood.
        assert gateway.sample("punctual_full_depth_demand_ratio") == 2 * before > 0
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        gateway.backend.behaviour = gateway.backend.answer
        assert (await gateway.detect()).status_code == 200


class TestParameters:
    async def test_only_boxes_of_the_classes_wanted(self, gateway: Gateway) -> None:
        for classes, labels in (("circle", [0, 0]), ("1", [1]), ("Circle,SQUARE", [1, 0, 0])):
            response = await gateway.detect(params={"classes": classes})
            found = DetectionResponse.model_validate(response.json()).detections
            assert [each.class_id for each in found] == labels
        refused = problem(await gateway.detect(params={"classes": "triangle,circle"}))
        assert refused["status"] == 400
        assert "no class 'triangle'; GET /v1/models" in refused["detail"]

    async def test_a_deadline_in_the_query(self, gateway: Gateway) -> None:
        async def budget_ms(deadline_ms: str, **headers: str) -> float:
            asked = {"deadline_ms": deadline_ms}
            reply = await gateway.detect(params=asked, headers=headers)
            return float(reply.json()["budget_ms"])

        assert await budget_ms("400") == 400
        assert await budget_ms("400", **{"X-Deadline-Ms": "500"}) == 400
        assert await budget_ms("600", **{"X-Deadline-Ms": "500"}) == 500
        assert await budget_ms("600", **{"grpc-timeout": "300m"}) == 300
        refused = problem(await gateway.detect(params={"deadline_ms": "0"}))
        assert (refused["status"], "deadline_ms" in refused["detail"]) == (400, True)
        assert gateway.outcomes()["invalid"] == 1


class TestAlone:
    """Who has the server for itself is never told that it has too much to do."""

    @pytest.mark.parametrize("reason", [*UNLUCKY, None])
    async def test_too_small_a_budget_is_told_what_works(
        self, gateway: Gateway, reason: ShedReason | None
    ) -> None:
        late = DeadlineExceeded("x") if reason is None else Overloaded("x", reason, 0.0)
        gateway.backend.behaviour = raising(late)
        gateway.backend.exit_s, gateway.backend.tail_ratio = 1.0, 2.0
        budget = {"X-Deadline-Ms": "1500"}
        refused = problem(await gateway.detect(headers=budget))
        assert refused["type"].endswith(":budget-infeasible")
        assert 2000 < refused["min_budget_ms"] < 2100 * MIN_BUDGET_HEADROOM
        assert gateway.outcomes() == {"infeasible": 1}
        # That a server is slower than it was is its own failure.
        usually_enough = {"X-Deadline-Ms": "1600"}
        assert slug(await gateway.detect(headers=usually_enough)) == "deadline-exceeded"
        async with gateway.busy():
            expected = "deadline-exceeded" if reason is None else "overloaded"
            assert slug(await gateway.detect(headers=budget)) == expected

    @pytest.mark.parametrize("reason", UNLUCKY)
    async def test_a_budget_that_works_was_missed_by_the_server(
        self, gateway: Gateway, reason: ShedReason
    ) -> None:
        gateway.backend.behaviour = raising(Overloaded("x", reason, 0.0))
        assert slug(await gateway.detect()) == "deadline-exceeded"
        assert gateway.outcomes() == {"late": 1}

    @pytest.mark.parametrize(
        "reason", [ShedReason.REJECTED_SATURATED, ShedReason.REJECTED_DRAINING]
    )
    async def test_what_is_not_for_want_of_time_stays(
        self, gateway: Gateway, reason: ShedReason
    ) -> None:
        gateway.backend.behaviour = raising(Overloaded("x", reason))
        assert problem(await gateway.detect())["reason"] == reason

    async def test_who_comes_later_is_company(self, gateway: Gateway) -> None:
        shed = asyncio.Event()

        async def behaviour(*_: object) -> Answered:
            await shed.wait()
            raise Overloaded("x", ShedReason.REJECTED_EXPIRED)

        gateway.backend.behaviour = behaviour
        first = asyncio.create_task(gateway.detect(headers={"X-Deadline-Ms": "10000"}))
        while not gateway.backend.seen:
            await asyncio.sleep(0.001)
        async with gateway.busy():
            shed.set()
            assert slug(await first) == "overloaded"

    async def test_what_is_suggested_has_in_it_what_requests_took_besides(
        self, gateway: Gateway
    ) -> None:
        async def suggested_s() -> float:
            refused = problem(await gateway.detect(headers={"X-Deadline-Ms": "0.1"}))
            return float(refused["min_budget_ms"]) / 1e3

        async def behaviour(image: Image, request: Request) -> Answered:
            gateway.clock.now += 0.5
            answered = await gateway.backend.answer(image, request)
            return replace(answered, engine_s=0.2)

        at_first_s = await suggested_s()
        gateway.backend.behaviour = behaviour
        async with gateway.busy():
            assert (await gateway.detect()).status_code == 200
            assert await suggested_s() == at_first_s, "for what others take, nobody needs more"
        assert (await gateway.detect()).status_code == 200
        more_s = (0.3 - OVERHEAD_SEED_S) * MIN_BUDGET_HEADROOM
        assert await suggested_s() == pytest.approx(at_first_s + more_s, abs=0.01)
        gateway.clock.now += OVERHEAD_WINDOW_S + 1.0
        assert await suggested_s() == at_first_s


class TestEndings:
    @pytest.mark.parametrize(
        ("error", "expected", "outcome"),
        [
            (Overloaded("x", ShedReason.REJECTED_OVERLOAD), "overloaded", "rejected"),
            (Overloaded("x", ShedReason.EVICTED_EXPIRED), "overloaded", "evicted"),
            (TooManyRequests("x"), "too-many-requests", "limited"),
            (DeadlineExceeded("x"), "deadline-exceeded", "late"),
            (BackendError("x"), "backend-error", "error"),
            (BackendUnavailable("x"), "backend-unavailable", "error"),
            (RequestCancelled("x"), "cancelled", "cancelled"),
            (FrameSuperseded("x"), "superseded", "superseded"),
            (RuntimeError("x"), "internal", "error"),
        ],
    )
    async def test_each_is_told_and_counted_once(
        self, gateway: Gateway, error: Exception, expected: str, outcome: str
    ) -> None:
        gateway.backend.behaviour = raising(error)
        async with gateway.busy():
            assert slug(await gateway.detect()) == expected
            assert gateway.outcomes() == {outcome: 1}
            assert gateway.sample("punctual_request_duration_seconds_count") == 1
        shed = sum(gateway.sample("punctual_shed_total", reason=reason) for reason in ShedReason)
        assert shed == isinstance(error, Overloaded)

    async def test_every_outcome_can_be_reached_once(self, gateway: Gateway) -> None:
        backend = gateway.backend
        await gateway.detect()
        backend.behaviour = lambda image, request: FakeBackend.answer(backend, image, request, 1)
        await gateway.detect()
        await gateway.detect(headers={"X-Deadline-Ms": "1"})
        await gateway.detect(b"text")
        for error in (
            Overloaded("x", ShedReason.REJECTED_OVERLOAD),
            Overloaded("x", ShedReason.EVICTED_EXPIRED),
            TooManyRequests("x"),
            DeadlineExceeded("x"),
            RequestCancelled("x"),
            FrameSuperseded("x"),
            BackendError("x"),
        ):
            backend.behaviour = raising(error)
            if isinstance(error, RequestCancelled):
                await gateway.detect()
                continue
            async with gateway.busy():
                await gateway.detect()
        counted = gateway.outcomes()
        assert counted.pop("cancelled") == 1 + 6, "and those whose company was needed"
        assert counted == dict.fromkeys(set(OUTCOMES) - {"cancelled"}, 1)

    async def test_never_a_late_success(self, gateway: Gateway) -> None:
        async def behaviour(image: Image, request: Request) -> Answered:
            gateway.clock.now += 9.0011
            return await gateway.backend.answer(image, request)

        gateway.backend.behaviour = behaviour
        response = await gateway.detect(headers={"X-Deadline-Ms": "9000"})
        assert slug(response) == "deadline-exceeded"
        assert gateway.outcomes() == {"late": 1}
        assert gateway.sample("punctual_deadline_overrun_seconds_sum") == pytest.approx(0.0011)

    async def test_a_backend_that_hangs_is_given_up_at_the_deadline(self, gateway: Gateway) -> None:
        gateway.backend.behaviour = forever
        response = await gateway.detect(headers={"X-Deadline-Ms": "500"})
        assert slug(response) == "deadline-exceeded"

    async def test_a_client_that_leaves_cancels_its_request(self, gateway: Gateway) -> None:
        cancelled = asyncio.Event()

        async def behaviour(*_: object) -> Answered:
            try:
                return await forever()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        gateway.backend.behaviour = behaviour
        sent: list[Message] = []
        departure = Departure()

        async def receive() -> Message:
            return {"type": "http.request", "body": JPEG, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/detect",
            "query_string": b"",
            "headers": [(b"content-type", b"image/jpeg")],
            "state": {DEPARTURE: departure},
        }
        asking = asyncio.ensure_future(gateway.app(scope, receive, send))
        while not gateway.backend.seen:
            await asyncio.sleep(0.001)
        departure.leave()
        await asking
        assert cancelled.is_set()
        assert sent[0]["status"] == 499
        assert gateway.outcomes() == {"cancelled": 1}
        assert gateway.sample("punctual_shed_total", reason="evicted-expired") == 0


class TestDoor:
    @pytest.mark.parametrize(
        ("depth", "min_depth", "has_room"), [(1, 1, False), (3, 1, True), (3, 3, False)]
    )
    async def test_who_is_late_even_if_all_hurry_is_refused(
        self, depth: int, min_depth: int, has_room: bool
    ) -> None:
        """Three are due before the last one, and answers take a second each: too long for it, but
        not if they went deeper than they had to."""
        gateway = Gateway(default_budget_ms=2000.0)
        backend = gateway.backend
        backend.behaviour = forever
        headers, params = {"X-Deadline-Ms": "10000"}, {"min_depth": min_depth}
        ahead = [asyncio.ensure_future(gateway.detect(headers=headers)) for _ in range(3)]
        try:
            while len(backend.seen) < len(ahead):
                await asyncio.sleep(0.001)

            async def behaviour(image: Image, request: Request) -> Answered:
                gateway.clock.now += 1.0
                return await backend.answer(image, request, depth)

            backend.behaviour = behaviour
            for _ in range(MIN_ANSWERS + 1):
                reply = await gateway.detect(headers={"X-Deadline-Ms": "5000"}, params=params)
                assert reply.status_code == 200
            read: list[bytes] = []

            async def body() -> AsyncIterator[bytes]:
                read.append(JPEG)
                yield JPEG

            last = await gateway.detect(body(), params=params)
            assert bool(read) == has_room, "it is refused before it is read"
            stated = json.dumps({"image": b64encode(JPEG).decode(), "deadline_ms": 5000})
            kind = {"Content-Type": "application/json"}
            patient = await gateway.detect(stated, headers=kind, params=params)
            assert patient.status_code == 200, "a message may allow more than the default"
        finally:
            for request in ahead:
                request.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)
        if has_room:
            assert last.status_code == 200
        else:
            assert problem(last)["reason"] == "rejected-overload"
            assert problem(last)["retry_after_ms"] == pytest.approx(
                1e3 * REJECT_WAIT_FACTOR * len(ahead)
            )


class TestPixels:
    async def test_boxes_are_in_the_upright_image(self, gateway: Gateway) -> None:
        # Stored 64 wide and 48 high, shown 48 wide and 64 high.
        exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
        data = encode(picture(64, 48), "JPEG", exif=exif)
        reply = (await gateway.detect(data)).json()
        assert reply["image"] == {"width": 48, "height": 64}

    async def test_decoding_is_bounded(self) -> None:
        gateway = Gateway(num_decode_workers=1, max_pending_decodes=0)
        replies = await asyncio.gather(*(gateway.detect() for _ in range(20)))
        assert {reply.status_code for reply in replies} == {200, 503}
        reasons = {problem(reply)["reason"] for reply in replies if reply.status_code == 503}
        assert reasons == {"rejected-saturated"}

    async def test_an_image_that_takes_too_much_memory_is_refused_before_any_work(self) -> None:
        gateway = Gateway(max_decode_bytes=64 * 2**20)
        reply = await gateway.detect(flat_webp(3000, 3000))
        assert slug(reply) == "payload-too-large"
        assert "MiB" in problem(reply)["detail"]
        assert gateway.backend.seen == []

    async def test_an_image_that_takes_too_long_for_any_budget_is_refused(self) -> None:
        gateway = Gateway(max_budget_ms=20.0, default_budget_ms=20.0)
        reply = await gateway.detect(with_scans(PROGRESSIVE, 400))
        assert slug(reply) == "payload-too-large"
        assert "no budget is larger than 20" in problem(reply)["detail"]

    async def test_a_budget_that_does_not_do_for_decoding_is_refused_with_one_that_does(
        self, gateway: Gateway
    ) -> None:
        reply = await gateway.detect(with_scans(PROGRESSIVE, 400), headers={"X-Deadline-Ms": "30"})
        assert slug(reply) == "budget-infeasible"
        assert problem(reply)["min_budget_ms"] > 30
        assert (await gateway.detect(with_scans(PROGRESSIVE, 400))).status_code == 200

    async def test_who_waits_for_a_dear_image_is_ahead_of_nobody(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = threading.Event()

        def slow(data: bytes, *others: Any) -> Any:
            if data == large:
                gate.wait()
            return decode_all(data, *others)

        monkeypatch.setattr("serving.imaging.decode_pool.decode_all", slow)
        large = flat_webp(2000, 1500)
        headers = {"X-Deadline-Ms": "5000"}
        ahead = [asyncio.ensure_future(gateway.detect(large, headers=headers)) for _ in range(12)]
        try:
            await asyncio.sleep(0)
            for _ in range(MIN_ANSWERS + 2):
                gateway.clock.now += 1.0  # as if an answer took that long
                reply = await gateway.detect(headers={"X-Deadline-Ms": "6000"})
                assert reply.status_code == 200
        finally:
            gate.set()
            await asyncio.gather(*ahead)


class TestAnswerInHand:
    """The backend answers at depth 1 and holds the request; a better answer follows, or none."""

    BUDGET_S = 9.0
    """Of which 3 ms are kept for the reply."""

    def holding(self, gateway: Gateway, *steps: float | int, held_last: bool) -> None:
        """Let it answer at these depths (int) after these seconds (float); all but the last in
        hand, and that one too, if ``held_last``."""

        async def plain(image: Image, request: Request) -> AsyncGenerator[Answered, None]:
            upgrades = 0
            for number, step in enumerate(steps):
                if isinstance(step, float):
                    gateway.clock.now += step
                    continue
                answer = await gateway.backend.answer(image, request, step)
                held = held_last or number < len(steps) - 1
                yield replace(answer, held=held, upgrades=upgrades)
                upgrades += 1

        gateway.backend.plain = gateway.backend.growth = plain

    async def reply(self, gateway: Gateway) -> httpx.Response:
        return await gateway.detect(headers={"X-Deadline-Ms": f"{self.BUDGET_S * 1e3}"})

    def ends(self, gateway: Gateway) -> dict[str, float]:
        ends = {e: gateway.sample("punctual_answers_in_hand_total", end=e) for e in IN_HAND_ENDS}
        return {end: count for end, count in ends.items() if count}

    @pytest.mark.parametrize(
        ("steps", "held_last", "depth", "end", "outcome"),
        [
            ((1.0, 1, 1.0, 3), False, 3, "better", "ok"),
            ((1.0, 1, 1.0, 2), False, 2, "better", "degraded"),
            ((1.0, 1, 1.0), True, 1, "concluded", "degraded"),
            ((1.0, 1, 7.9965), True, 1, "deadline", "degraded"),
            ((1.0, 1, 1.0, 2, 6.9965), True, 2, "deadline", "degraded"),
            ((8.9969, 1), True, 1, "concluded", "degraded"),  # it came just then
        ],
    )
    async def test_the_best_there_was_is_the_reply(
        self,
        gateway: Gateway,
        steps: tuple[float | int, ...],
        held_last: bool,
        depth: int,
        end: str,
        outcome: str,
    ) -> None:
        self.holding(gateway, *steps, held_last=held_last)
        response = await self.reply(gateway)
        assert response.json()["exit_depth"] == depth
        assert response.json()["degraded"] == (outcome == "degraded")
        assert gateway.outcomes() == {outcome: 1}
        assert self.ends(gateway) == {end: 1}

    @pytest.mark.parametrize("accept", ["*/*", NDJSON])
    async def test_a_merged_answer_names_both_points_and_what_it_is_worth(
        self, accept: str
    ) -> None:
        small = replace(CATALOG, input_width=64, input_height=48)
        merged = MergedAccuracy(SizedExit("64x48", 1), SizedExit("128x96", 3), 0.75, 0.9)
        entry = ModelEntry((small, CATALOG), merging=Merging(32.0, 0.6), merged=(merged,))
        gateway = Gateway(Family((entry,)))

        async def plain(image: Image, request: Request) -> AsyncGenerator[Answered, None]:
            first = replace(await gateway.backend.answer(image, request, 1), held=True)
            yield first
            better = await gateway.backend.answer(image, request, 3)
            yield replace(better, model=1, earlier=((0, 1),), upgrades=1)

        gateway.backend.plain = gateway.backend.growth = plain
        response = await gateway.detect(headers={"Accept": accept})
        replies = [json.loads(line) for line in response.text.splitlines()]
        facts = [(r["operating_point"], r["expected_ap"], r["degraded"]) for r in replies]
        in_hand = [("64x48/1", 0.4, True)] if accept == NDJSON else []
        whole = ("64x48/1+128x96/3", 0.75, False)
        assert facts == [*in_hand, *([whole] * (len(replies) - len(in_hand)))]
        assert gateway.outcomes() == {"ok": 1}
        assert self.ends(gateway) == {"better": 1}
        assert (gateway.answers(0, 1), gateway.answers(1, 3)) == (0, 1)

    async def test_the_time_in_hand_is_told_apart(self, gateway: Gateway) -> None:
        self.holding(gateway, 0.010, 1, 0.020, held_last=True)
        response = await self.reply(gateway)
        assert response.headers["server-timing"].split(", ")[2:] == [
            "queue;dur=10.0",
            'engine;dur=0.0;desc="depth=1"',
            "in-hand;dur=20.0",
            "total;dur=30.0",
        ]
        assert gateway.metrics.totals.write.seconds == 0.0

    async def test_a_backend_that_does_not_keep_the_deadline_is_given_up(
        self, gateway: Gateway
    ) -> None:
        """The answer in hand is sent, if there is any time left to send it."""

        async def plain(image: Image, request: Request) -> AsyncGenerator[Answered, None]:
            yield replace(await gateway.backend.answer(image, request, 1), held=True)
            gateway.clock.now = request.deadline_s
            raise TimeoutError

        gateway.backend.plain = plain
        response = await self.reply(gateway)
        assert response.json()["exit_depth"] == 1
        assert self.ends(gateway) == {"deadline": 1}

    @pytest.mark.parametrize("late_s", [0.0025, 0.014])
    async def test_it_is_sent_the_sooner_the_later_others_were_than_they_should(
        self, gateway: Gateway, late_s: float
    ) -> None:
        """The second of these replies is not even in time."""
        due_s = self.BUDGET_S - 0.003 - SEED_S
        self.holding(gateway, 1.0, 1, due_s - 1.0 + late_s, held_last=True)
        await self.reply(gateway)
        gateway.clock.now += REFRESH_S
        await self.reply(gateway)
        reserves_s = [request.in_hand_reserve_s for _, request in gateway.backend.seen]
        assert reserves_s == pytest.approx([SEED_S, late_s])
