from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from prometheus_client import CollectorRegistry
from starlette.types import Message

from serving.api.lifecycle import Lifecycle
from serving.app import create_app, create_backend, create_server
from serving.metrics import Metrics
from serving.settings import Settings
from tests.serving.fakes import CATALOG, FakeBackend, FakeClock, write_catalogs


def test_backend_is_of_the_model(tmp_path: Path) -> None:
    settings = Settings(model_repository=write_catalogs(tmp_path, "cells"))
    metrics = Metrics(CollectorRegistry(), FakeClock())
    backend = create_backend(settings, metrics, FakeClock())
    assert backend.catalog == CATALOG
    assert not backend.ready


class TestLifespan:
    @staticmethod
    def run(backend: FakeBackend) -> list[Exception | None]:
        told: list[Exception | None] = []

        async def started(error: Exception | None) -> None:
            told.append(error)

        metrics = Metrics(CollectorRegistry(), backend.clock)
        app = create_app(
            Settings(shutdown_grace_ms=1500),
            backend,
            metrics,
            Lifecycle(backend),
            started=started,
        )
        messages: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> Message:
            if len(messages) == 1:
                while not told:
                    await asyncio.sleep(0)
            return messages.pop(0)

        async def send(message: Message) -> None:
            assert message["type"].endswith("complete"), message

        asyncio.run(app({"type": "lifespan"}, receive, send))  # type: ignore[arg-type]
        return told

    def test_starts_and_stops_the_backend(self) -> None:
        backend = FakeBackend(FakeClock())
        assert self.run(backend) == [None]
        assert backend.stopped_with == 1.5

    def test_tells_of_a_backend_that_does_not_start(self) -> None:
        backend = FakeBackend(FakeClock())
        backend.start_error = RuntimeError("no engine")
        assert self.run(backend) == [backend.start_error]


def test_drain_follows_a_signal() -> None:
    backend = FakeBackend(FakeClock())
    metrics = Metrics(CollectorRegistry(), backend.clock)
    patient = create_server(Settings(drain_delay_ms=1e9), backend, metrics)
    hasty = create_server(Settings(drain_delay_ms=0), backend, metrics)

    async def scenario() -> None:
        for server in (patient, hasty):
            server.handle_exit(signal.SIGTERM, None)
        while not hasty.should_exit:
            await asyncio.sleep(0)
        assert not patient.should_exit
        assert not hasty.force_exit
        patient.handle_exit(signal.SIGTERM, None)
        assert patient.should_exit
        assert patient.force_exit

    asyncio.run(scenario())
