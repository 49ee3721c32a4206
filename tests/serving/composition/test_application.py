from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message

from serving.api.admission import MIN_BUDGET_HEADROOM
from serving.api.lifecycle import Lifecycle
from serving.composition.application import create_app
from serving.core.catalog import Exit
from serving.observability.metrics import Metrics
from serving.settings import Settings
from tests.serving.fakes import CATALOG, FakeBackend, FakeClock, family_of
from tests.serving.world import exact_profile


class TestLifespan:
    @staticmethod
    def run(backend: FakeBackend) -> list[float | Exception]:
        told: list[float | Exception] = []

        async def started(outcome: float | Exception) -> None:
            told.append(outcome)

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
        (ample_s,) = self.run(backend)
        assert isinstance(ample_s, float)
        assert backend.stopped_with == 1.5
        # Twice what the deepest exit needs, as a round number of milliseconds.
        assert 2 * MIN_BUDGET_HEADROOM * backend.predicted_s(3) < ample_s < 0.11
        assert round(1e3 * ample_s, 6) % 10 == 0

    @pytest.mark.parametrize(("exit_s", "ample_s"), [(0.1, 0.8), (0.5, 4.0), (5.0, 10.0)])
    def test_what_is_ample_is_a_round_number_that_is_served(
        self, exit_s: float, ample_s: float
    ) -> None:
        backend = FakeBackend(FakeClock())
        backend.exit_s = exit_s
        assert self.run(backend) == [ample_s]

    @pytest.mark.parametrize(("profiled", "ms"), [("openvino", "13.5"), ("torch", "20.0")])
    def test_reports_the_exits_that_add_nothing(
        self, profiled: str, ms: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """By the profile on what it runs on or, without it, by what is predicted."""
        exits = [Exit(d, ap, ap, {}) for d, ap in enumerate((0.5, 0.6, 0.59, 0.7, 0.8), start=1)]
        catalog = replace(CATALOG, exits=tuple(exits), profiles={profiled: exact_profile()})
        with caplog.at_level(logging.INFO, "serving.composition"):
            self.run(FakeBackend(FakeClock(), family=family_of(catalog)))
        assert caplog.messages == [
            f"off the front: exit 3 of cells: .590, not above the .600 of exit 2 ({ms} ms)"
        ]

    def test_tells_of_a_backend_that_does_not_start(self) -> None:
        backend = FakeBackend(FakeClock())
        backend.start_error = RuntimeError("no engine")
        assert self.run(backend) == [backend.start_error]
