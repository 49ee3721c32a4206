"""One detection request, from its head to its reply.

    options, budget -> admission -> body -> header -> feasibility -> pixels -> boxes -> reply

Each arrow can end it with an error of ``core.errors``; whichever way it ends, it is counted once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive

from serving.api.body import check_head, image_bytes, read_body
from serving.api.budget import Budget, parse_budget
from serving.api.lifecycle import Lifecycle
from serving.api.options import Options, parse_options
from serving.api.problems import to_ms
from serving.core.errors import (
    BackendError,
    BodyTimeout,
    BudgetInfeasible,
    Cancelled,
    DeadlineExceeded,
    Overloaded,
    ShedReason,
)
from serving.core.letterbox import Letterbox
from serving.core.ports import Backend, Clock
from serving.core.request import Answered, Request
from serving.images import DecodePool, Header, probe
from serving.metrics import Metrics, Reply, RequestRecord

T = TypeVar("T")

logger = logging.getLogger(__name__)

MIN_BUDGET_HEADROOM = 1.25
"""A budget that is suggested must still do a moment later, when predictions have moved."""

MAX_READ_SHARE = 0.1
"""Reading a body is taken to need at most this share of what follows it, on an idle server."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server allows; durations in seconds."""

    default_budget_s: float
    min_budget_s: float
    max_budget_s: float
    network_reserve_s: float
    max_body_bytes: int
    max_pixels: int
    max_requests: int


@dataclass(frozen=True, slots=True)
class _Ask:
    """What a request asks, and since when."""

    request_id: str
    arrival_s: float
    budget: Budget
    options: Options

    @property
    def deadline_s(self) -> float:
        """The instant by which the reply must be on its way."""
        return self.arrival_s + self.budget.seconds


@dataclass(frozen=True, slots=True)
class _Found:
    """What the backend made of an image, which was there at ``read_s`` and decoded at
    ``decoded_s``."""

    read_s: float
    decoded_s: float
    placement: Letterbox
    answered: Answered

    @property
    def queue_s(self) -> float:
        """Seconds in the backend during which none of its segments ran."""
        in_backend_s = self.answered.finished_s - self.decoded_s
        return max(0.0, in_backend_s - self.answered.engine_s)


class Detector:
    """Serves ``POST /v1/detect``. All of it runs on the event loop except decoding and the
    backend."""

    def __init__(
        self,
        backend: Backend,
        pool: DecodePool,
        *,
        lifecycle: Lifecycle,
        metrics: Metrics,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._backend = backend
        self._pool = pool
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._ids = itertools.count()
        self._num_requests = 0

    async def __call__(self, http: HttpRequest) -> Response:
        """The reply to one request. Raises ServingError."""
        state = http.scope["state"]
        arrival_s: float = state["arrival_s"]
        budget_s = self._limits.default_budget_s

        def ended(ending: Reply | BaseException) -> None:
            record = RequestRecord(self._clock() - arrival_s, budget_s, ending)
            self._metrics.ended_request(record)
            _log(record, state["request_id"])

        self._num_requests += 1
        try:
            options = parse_options(http.query_params, self._backend.catalog)
            budget = self._budget(http.headers)
            budget_s = budget.seconds
            state["budget_ms"] = to_ms(budget_s)
            ask = _Ask(state["request_id"], arrival_s, budget, options)
            response, reply = await self._answer(http, ask)
        except BaseException as error:
            ended(error)
            raise
        finally:
            self._num_requests -= 1
        ended(reply)
        return response

    def min_budget_s(self, header: Header, depth: int) -> float:
        """Seconds that an idle server needs to answer at ``depth``, the body being there."""
        return max(
            self._limits.min_budget_s,
            self._pool.predicted_s(header)
            + self._backend.predicted_s(depth)
            + self._limits.network_reserve_s,
        )

    def _budget(self, headers: Headers) -> Budget:
        return parse_budget(
            headers, default_s=self._limits.default_budget_s, max_s=self._limits.max_budget_s
        )

    async def _answer(self, http: HttpRequest, ask: _Ask) -> tuple[Response, Reply]:
        self._lifecycle.admit()
        if self._num_requests > self._limits.max_requests:
            raise Overloaded("Too many requests are being served.", ShedReason.REJECTED_SATURATED)
        check_head(http.headers, self._limits.max_body_bytes)
        data = image_bytes(http.headers, await self._read(http.receive, ask))
        header = probe(data, self._limits.max_pixels)
        read_s = self._clock()
        self._check_feasible(header, ask, read_s)
        self._metrics.demanded()
        found = await _while_connected(http.receive, self._find(data, header, ask, read_s))
        return self._reply(ask, found)

    async def _read(self, receive: Receive, ask: _Ask) -> bytes:
        # A budget that no server could meet is waited for as long as the smallest that one could,
        # so that it is refused with that number rather than for being slow.
        engine_s = self._backend.predicted_s(ask.options.min_depth)
        patience_s = max(ask.budget.seconds, engine_s + self._limits.network_reserve_s)
        try:
            async with asyncio.timeout(ask.arrival_s + patience_s - self._clock()):
                return await read_body(receive, self._limits.max_body_bytes)
        except TimeoutError as error:
            raise BodyTimeout(f"The body had not arrived after {to_ms(patience_s)} ms.") from error

    def _check_feasible(self, header: Header, ask: _Ask, read_s: float) -> None:
        needed_s = self.min_budget_s(header, ask.options.min_depth)
        elapsed_s = read_s - ask.arrival_s
        if ask.budget.seconds >= needed_s + elapsed_s:
            return
        # Reading takes a little always, which an idle server needs as well. What exceeds that is a
        # slow sender or a busy server, and no reason to call the budget too small for ever.
        needed_s += min(elapsed_s, needed_s * MAX_READ_SHARE)
        if ask.budget.seconds >= needed_s:
            raise Overloaded(
                f"The body took {to_ms(elapsed_s)} ms to arrive, which left too little time.",
                ShedReason.REJECTED_EXPIRED,
            )
        min_budget_s = math.ceil(needed_s * MIN_BUDGET_HEADROOM * 1e3) / 1e3
        raise BudgetInfeasible(
            f"An idle server needs {to_ms(needed_s)} ms to read this image and answer at depth "
            f"{ask.options.min_depth}; allow {to_ms(min_budget_s)} ms.",
            min_budget_s,
        )

    async def _find(self, data: bytes, header: Header, ask: _Ask, read_s: float) -> _Found:
        """Pixels, then boxes. Raises Overloaded, DeadlineExceeded, InvalidImage or
        BackendError."""
        try:
            async with asyncio.timeout(ask.deadline_s - self._clock()):
                image, placement = await self._pool.decode(data, header)
        except TimeoutError as error:
            raise Overloaded(
                "The deadline came while the image waited to be decoded.",
                ShedReason.REJECTED_EXPIRED,
            ) from error
        decoded_s = self._clock()
        request = Request(
            id=next(self._ids),
            arrival_s=ask.arrival_s,
            deadline_s=ask.deadline_s - self._limits.network_reserve_s,
            min_depth=ask.options.min_depth,
            max_depth=ask.options.max_depth,
        )
        try:
            async with asyncio.timeout(ask.deadline_s - decoded_s):
                answered = await self._backend.detect(image, request)
        except TimeoutError as error:
            raise DeadlineExceeded("The engine had no boxes by the deadline.") from error
        return _Found(read_s, decoded_s, placement, answered)

    def _reply(self, ask: _Ask, found: _Found) -> tuple[Response, Reply]:
        catalog = self._backend.catalog
        answered, placement, options = found.answered, found.placement, ask.options
        elapsed_s = self._clock() - ask.arrival_s
        degraded = answered.depth < options.max_depth
        body = json.dumps(
            {
                "model": catalog.name,
                "request_id": ask.request_id,
                "image": {
                    "width": placement.original_width,
                    "height": placement.original_height,
                },
                "detections": _detections(
                    answered, placement, options.score_threshold, catalog.classes
                ),
                "exit_depth": answered.depth,
                "max_depth": options.max_depth,
                "degraded": degraded,
                "expected_ap": catalog.expected_ap(answered.depth),
                "budget_ms": to_ms(ask.budget.seconds),
                "elapsed_ms": to_ms(elapsed_s),
                "slack_ms": to_ms(ask.budget.seconds - elapsed_s),
                "predicted_ms": to_ms(answered.predicted_s),
            },
            separators=(",", ":"),
        ).encode()
        stages = (
            ("read", found.read_s - ask.arrival_s, ""),
            ("decode", found.decoded_s - found.read_s, ""),
            ("queue", found.queue_s, ""),
            ("engine", answered.engine_s, f';desc="depth={answered.depth}"'),
            ("total", elapsed_s, ""),
        )
        headers = {
            "Cache-Control": "no-store",
            "Server-Timing": ", ".join(f"{n};dur={to_ms(s)}{desc}" for n, s, desc in stages),
        }
        if ask.budget.wait is not None:
            headers["Preference-Applied"] = f"wait={ask.budget.wait}"
        # Asked last: a reply that took too long to write is late as well.
        late_s = self._clock() - ask.deadline_s
        if late_s > 0:
            raise DeadlineExceeded(f"The boxes were ready {to_ms(late_s)} ms after the deadline.")
        return (
            Response(body, headers=headers, media_type="application/json"),
            Reply(answered.depth, degraded, found.queue_s),
        )


def _detections(
    answered: Answered, placement: Letterbox, score_threshold: float, classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Boxes in the original image, to a hundredth of a pixel."""
    found = answered.detections
    kept = found.scores >= score_threshold
    boxes = placement.to_original(found.boxes_xyxy_input[kept])
    # float64 before rounding, so that JSON shows 12.34 and not 12.34000015258789.
    return [
        {"box": box, "score": score, "label": classes[label], "class_id": label}
        for box, score, label in zip(
            boxes.astype(float).round(2).tolist(),
            found.scores[kept].astype(float).round(4).tolist(),
            found.labels[kept].tolist(),
            strict=True,
        )
    ]


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, unless the client leaves first: then ``work`` is cancelled, and
    Cancelled raised."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("The client left.")
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _log(record: RequestRecord, request_id: str) -> None:
    level = (
        logging.WARNING
        if isinstance(record.ending, (DeadlineExceeded, BackendError))
        else logging.DEBUG
    )
    logger.log(
        level,
        "request %s: %s after %.1f ms of %.1f ms%s",
        request_id,
        record.outcome,
        record.duration_s * 1e3,
        record.budget_s * 1e3,
        "" if isinstance(record.ending, Reply) else f" ({record.ending})",
    )
