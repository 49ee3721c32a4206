"""One detection request, from its head to its reply, whichever surface it came by.

    budget -> admission -> head -> body -> message -> feasibility -> pixels -> boxes -> reply

Each arrow can end it with an error of ``core.errors``; whichever way it ends, it is counted once.
What a surface adds is how the head and the body are read and how the reply is written.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive

from serving.api.body import read_body
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
from serving.images import DecodePool, Header
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
class Answer:
    """What any surface may tell of a request that was answered."""

    request_id: str
    placement: Letterbox
    boxes_xyxy: npt.NDArray[np.float32]  # (N, 4), pixels of the original image, best first
    scores: npt.NDArray[np.float32]  # (N,)
    labels: npt.NDArray[np.int32]  # (N,)
    facts: Mapping[str, float | bool]
    """How it came about, under the names of ``schemas.Detected``."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request that has been read."""

    data: bytes
    header: Header
    """What ``data`` is."""
    options: Options
    timeout_s: float | None
    """The budget that was stated in the body, if any."""
    write: Callable[[Answer], Response]


class Surface(Protocol):
    """How one protocol asks for boxes and is told them."""

    def read_head(self, http: HttpRequest) -> Options:
        """What is known of the options before the body. Raises InvalidRequest for a head that no
        body could make good."""

    async def read_body(self, headers: Headers, body: bytes, options: Options) -> Message:
        """All of what is asked. Raises InvalidRequest, or Overloaded when there is no room to read
        it."""


@dataclass(slots=True)
class _Ask:
    """What a request asks, as far as it has been read, and since when."""

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
    def decode_s(self) -> float:
        """Seconds from the message to its pixels."""
        return self.decoded_s - self.read_s

    @property
    def queue_s(self) -> float:
        """Seconds in the backend during which none of its segments ran."""
        in_backend_s = self.answered.finished_s - self.decoded_s
        return max(0.0, in_backend_s - self.answered.engine_s)


class Detector:
    """Serves detection requests. All of it runs on the event loop except decoding and the
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

    async def serve(self, http: HttpRequest, surface: Surface) -> Response:
        """The reply to one request. Raises ServingError."""
        state = http.scope["state"]
        limits = self._limits
        ask = _Ask(
            state["request_id"],
            state["arrival_s"],
            Budget(limits.default_budget_s, limits.max_budget_s),
            parse_options((), self._backend.catalog),
        )
        self._num_requests += 1
        try:
            response, reply = await self._answer(http, surface, ask)
        except BaseException as error:
            self._ended(ask, error)
            raise
        finally:
            self._num_requests -= 1
        self._ended(ask, reply)
        return response

    def _ended(self, ask: _Ask, ending: Reply | BaseException) -> None:
        record = RequestRecord(self._clock() - ask.arrival_s, ask.budget.seconds, ending)
        self._metrics.ended_request(record)
        _log(record, ask.request_id)

    def min_budget_s(self, header: Header, depth: int) -> float:
        """Seconds that an idle server needs to answer at ``depth``, the body being there."""
        return max(
            self._limits.min_budget_s,
            self._pool.predicted_s(header)
            + self._backend.predicted_s(depth)
            + self._limits.network_reserve_s,
        )

    async def _answer(
        self, http: HttpRequest, surface: Surface, ask: _Ask
    ) -> tuple[Response, Reply]:
        limits = self._limits
        _allow(
            http,
            ask,
            parse_budget(
                http.headers, default_s=limits.default_budget_s, max_s=limits.max_budget_s
            ),
        )
        self._lifecycle.admit()
        if self._num_requests > limits.max_requests:
            raise Overloaded("Too many requests are being served.", ShedReason.REJECTED_SATURATED)
        ask.options = surface.read_head(http)
        message = await self._read(http, surface, ask)
        ask.options = message.options
        if message.timeout_s is not None:
            _allow(http, ask, ask.budget.wished(message.timeout_s))
        read_s = self._clock()
        self._check_feasible(message.header, ask, read_s)
        self._metrics.demanded()
        found = await _while_connected(http.receive, self._find(message, ask, read_s))
        return self._reply(message, ask, found)

    async def _read(self, http: HttpRequest, surface: Surface, ask: _Ask) -> Message:
        # A budget that no server could meet is waited for as long as the smallest that one could,
        # so that it is refused with that number rather than for being slow.
        engine_s = self._backend.predicted_s(ask.options.min_depth)
        patience_s = max(ask.budget.seconds, engine_s + self._limits.network_reserve_s)
        body = None
        try:
            async with asyncio.timeout(ask.arrival_s + patience_s - self._clock()):
                body = await read_body(http.receive, self._limits.max_body_bytes)
                return await surface.read_body(http.headers, body, ask.options)
        except TimeoutError as error:
            if body is None:
                raise BodyTimeout(
                    f"The body had not arrived after {to_ms(patience_s)} ms."
                ) from error
            raise Overloaded(
                "The deadline came while the request waited to be read.",
                ShedReason.REJECTED_EXPIRED,
            ) from error

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
                f"The request took {to_ms(elapsed_s)} ms to arrive and be read, which left too "
                "little time.",
                ShedReason.REJECTED_EXPIRED,
            )
        min_budget_s = math.ceil(needed_s * MIN_BUDGET_HEADROOM * 1e3) / 1e3
        raise BudgetInfeasible(
            f"An idle server needs {to_ms(needed_s)} ms to read this image and answer at depth "
            f"{ask.options.min_depth}; allow {to_ms(min_budget_s)} ms.",
            min_budget_s,
        )

    async def _find(self, message: Message, ask: _Ask, read_s: float) -> _Found:
        """Pixels, then boxes. Raises Overloaded, DeadlineExceeded, InvalidImage or
        BackendError."""
        try:
            async with asyncio.timeout(ask.deadline_s - self._clock()):
                image, placement = await self._pool.decode(message.data, message.header)
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

    def _reply(self, message: Message, ask: _Ask, found: _Found) -> tuple[Response, Reply]:
        answered, budget_s = found.answered, ask.budget.seconds
        elapsed_s = self._clock() - ask.arrival_s
        degraded = answered.depth < ask.options.max_depth
        facts = {
            "exit_depth": answered.depth,
            "max_depth": ask.options.max_depth,
            "degraded": degraded,
            "expected_ap": self._backend.catalog.expected_ap(answered.depth),
            "budget_ms": to_ms(budget_s),
            "elapsed_ms": to_ms(elapsed_s),
            "slack_ms": to_ms(budget_s - elapsed_s),
            "predicted_ms": to_ms(answered.predicted_s),
        }
        response = message.write(_answer(ask, found, facts))
        stages = (
            ("read", found.read_s - ask.arrival_s, ""),
            ("decode", found.decode_s, ""),
            ("queue", found.queue_s, ""),
            ("engine", answered.engine_s, f';desc="depth={answered.depth}"'),
            ("total", elapsed_s, ""),
        )
        response.headers["Cache-Control"] = "no-store"
        response.headers["Server-Timing"] = ", ".join(
            f"{name};dur={to_ms(seconds)}{desc}" for name, seconds, desc in stages
        )
        if ask.budget.wait is not None:
            response.headers["Preference-Applied"] = f"wait={ask.budget.wait}"
        # Asked last: a reply that took too long to write is late as well.
        now_s = self._clock()
        if now_s > ask.deadline_s:
            late_ms = to_ms(now_s - ask.deadline_s)
            raise DeadlineExceeded(f"The boxes were ready {late_ms} ms after the deadline.")
        return response, Reply(
            depth=answered.depth,
            degraded=degraded,
            decode_s=found.decode_s,
            queue_s=found.queue_s,
            engine_s=answered.engine_s,
            write_s=max(0.0, now_s - answered.finished_s),
        )


def _allow(http: HttpRequest, ask: _Ask, budget: Budget) -> None:
    """From now on ``budget`` applies, and problems tell it."""
    ask.budget = budget
    http.scope["state"]["budget_ms"] = to_ms(budget.seconds)


def _answer(ask: _Ask, found: _Found, facts: Mapping[str, float | bool]) -> Answer:
    detections = found.answered.detections
    kept = detections.scores >= ask.options.score_threshold
    return Answer(
        ask.request_id,
        found.placement,
        found.placement.to_original(detections.boxes_xyxy_input[kept]),
        detections.scores[kept],
        detections.labels[kept],
        facts,
    )


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
