from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message

from serving import app
from serving.api.admission import MIN_BUDGET_HEADROOM
from serving.api.lifecycle import Lifecycle
from serving.app import create_app, create_backend, create_server
from serving.core.catalog import Exit
from serving.core.command_errors import CommandError
from serving.core.policy import Policy
from serving.observability.metrics import Metrics
from serving.settings import Settings
from tests.serving.fakes import CATALOG, FAMILY, FakeBackend, FakeClock, family_of, write_catalogs
from tests.serving.world import exact_profile


def no_policy(*_: object) -> Policy:
    """A maker of policies that nobody asks for one."""
    raise AssertionError


def test_backend_is_of_the_model(tmp_path: Path) -> None:
    settings = Settings(model_repository=write_catalogs(tmp_path, "cells"))
    metrics = Metrics(CollectorRegistry(), FakeClock())
    backend = create_backend(settings, metrics, FakeClock())
    assert backend.family == FAMILY
    assert not backend.ready


def test_several_models_are_served_as_one_by_the_embedded_engine(tmp_path: Path) -> None:
    write_catalogs(tmp_path, "small", "large")
    metrics = Metrics(CollectorRegistry(), FakeClock())
    settings = Settings(model_repository=tmp_path, model="small,large")
    assert create_backend(settings, metrics, FakeClock()).family.names == ("small", "large")
    for backend in ("triton", "triton-depth"):
        settings = Settings(model_repository=tmp_path, model="small,large", backend=backend)  # type: ignore[arg-type]
        refusal = f"{backend} serves one model, not small, large"
        with pytest.raises(CommandError, match=refusal):
            create_backend(settings, metrics, FakeClock())
    settings = Settings(model_repository=tmp_path, model="small,large")
    other = create_backend(settings, metrics, FakeClock(), create_policy=no_policy)
    assert other.family.ladder.sizes == ("small@128x96", "large@128x96")


def test_a_precision_that_cannot_be_served_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    settings = Settings(model_repository=write_catalogs(tmp_path, "cells"), precision="int8")
    metrics = Metrics(CollectorRegistry(), FakeClock())
    with pytest.raises(CommandError, match="no quantised segments"):
        create_backend(settings, metrics, FakeClock())
    settings = settings.model_copy(update={"precision": "bf16"})
    family = create_backend(settings, metrics, FakeClock()).family
    assert [catalog.precision for catalog in family.catalogs] == ["bf16"]


def test_another_policy_is_the_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model_repository=write_catalogs(tmp_path, "cells"))
    given: dict[str, Any] = {}
    # A backend has nothing but the function that starts its engine, and that notes its options.
    monkeypatch.setattr(
        app, "EmbeddedBackend", lambda family, _, start: SimpleNamespace(family=family, start=start)
    )
    monkeypatch.setattr(app, "start_engine", lambda *_, **options: given.update(options))
    metrics = Metrics(CollectorRegistry(), FakeClock())
    backend: Any = create_backend(settings, metrics, FakeClock(), no_policy)
    backend.current.backend.start(None)
    assert given["create_policy"] is no_policy


def test_a_triton_has_a_policy_of_its_own(tmp_path: Path) -> None:
    repository = write_catalogs(tmp_path, "cells")
    settings = Settings(model_repository=repository, backend="triton")
    metrics = Metrics(CollectorRegistry(), FakeClock())
    with pytest.raises(CommandError, match="is not the gateway's to choose"):
        create_backend(settings, metrics, FakeClock(), no_policy)


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
        with caplog.at_level(logging.INFO, "serving.app"):
            self.run(FakeBackend(FakeClock(), family=family_of(catalog)))
        assert caplog.messages == [
            f"off the front: exit 3 of cells: .590, not above the .600 of exit 2 ({ms} ms)"
        ]

    def test_tells_of_a_backend_that_does_not_start(self) -> None:
        backend = FakeBackend(FakeClock())
        backend.start_error = RuntimeError("no engine")
        assert self.run(backend) == [backend.start_error]


def test_drain_follows_a_signal() -> None:
    backend = FakeBackend(FakeClock())
    metrics = Metrics(CollectorRegistry(), backend.clock)
    bounds_s: list[float] = []
    codes: list[int] = []
    ends: Any = {"end_within": bounds_s.append, "end_now": codes.append}
    patient = create_server(Settings(drain_delay_ms=1e9), backend, metrics, **ends)
    hasty = create_server(Settings(drain_delay_ms=0), backend, metrics, **ends)

    async def scenario() -> None:
        for server in (patient, hasty):
            server.handle_exit(signal.SIGTERM, None)
        while not hasty.should_exit:
            await asyncio.sleep(0)
        assert not patient.should_exit
        assert not hasty.force_exit
        assert bounds_s[0] > 1e6 > bounds_s[1] > 2 * Settings().shutdown_grace_ms / 1e3
        assert codes == []
        patient.handle_exit(signal.SIGTERM, None)
        assert patient.should_exit
        assert patient.force_exit
        assert codes == [143]

    asyncio.run(scenario())
