"""A whole gateway in this process, over a fake backend and a clock that stands still."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from serving.api.lifecycle import Lifecycle
from serving.composition.application import create_app
from serving.core.errors import RequestCancelled
from serving.core.family import Family
from serving.core.request import Answered
from serving.observability.metrics import Metrics
from serving.settings import Settings
from tests.serving.fakes import FAMILY, JPEG, FakeBackend, FakeClock

HEADERS = {"Content-Type": "image/jpeg"}


class Gateway:
    """Settings as given, everything else at hand to be looked at or broken."""

    def __init__(self, family: Family = FAMILY, **settings: Any) -> None:
        self.clock = FakeClock()
        self.wall_clock = FakeClock()
        self.wall_clock.now = 1.7e9
        self.backend = FakeBackend(self.clock, family=family)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, self.clock)
        self.metrics.describe(self.backend, version="0", runtime="fake")
        self.lifecycle = Lifecycle(self.backend)
        self.app = create_app(
            Settings(**settings),
            self.backend,
            self.metrics,
            self.lifecycle,
            clock=self.clock,
            wall_clock=self.wall_clock,
            started=_ignore,
        )

    def client(self) -> httpx.AsyncClient:
        """A client that sees defects as replies, as over a socket."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def detect(
        self,
        content: Any = JPEG,
        *,
        params: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One ``POST /v1/detect``."""
        async with self.client() as client:
            return await client.post(
                "/v1/detect", content=content, params=params, headers={**HEADERS, **(headers or {})}
            )

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Somebody else is inside meanwhile, who leaves at the end without an answer."""
        backend, behaviour, num_seen = self.backend, self.backend.behaviour, len(self.backend.seen)
        leave = asyncio.Event()

        async def until_told(*_: object) -> Answered:
            await leave.wait()
            raise RequestCancelled("Its company is no longer needed.")

        backend.behaviour = until_told
        other = asyncio.create_task(self.detect(headers={"X-Deadline-Ms": "10000"}))
        while len(backend.seen) == num_seen:
            await asyncio.sleep(0.001)
        backend.behaviour = behaviour
        try:
            yield
        finally:
            leave.set()
            await other

    def sample(self, name: str, **labels: str) -> float:
        """The present value of one metric; 0 when there is none."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def answers(self, model: int, depth: int) -> float:
        """Answers counted at an operating point."""
        family = self.backend.family
        return self.sample(
            "punctual_exit_depth_total",
            depth=str(depth),
            model=family.names[model],
            operating_point=family.label(model, depth),
        )

    def outcomes(self) -> dict[str, float]:
        """Requests counted so far, by outcome."""
        return {
            sample.labels["outcome"]: sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == "punctual_requests_total" and sample.value
        }


async def _ignore(_: float | Exception) -> None:
    """Nobody waits for this backend to start: it was born ready."""


def problem(response: httpx.Response) -> dict[str, Any]:
    """The problem in ``response``, which must be one in every respect."""
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(response.content)
    assert body["status"] == response.status_code
    assert body["type"].startswith("urn:punctual:problem:")
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["title"]
    assert body["detail"]
    return body


def slug(response: httpx.Response) -> str:
    """Which problem ``response`` is."""
    return str(problem(response)["type"]).rpartition(":")[2]
