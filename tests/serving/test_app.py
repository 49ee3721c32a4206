from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message

from serving.api.lifecycle import Lifecycle
from serving.app import create_app, create_backend, create_server
from serving.metrics import Metrics
from serving.models import StartError, find_model, open_runner, read_catalog
from serving.settings import Settings
from tests.serving.fakes import CATALOG, FakeBackend, FakeClock


def repository(folder: Path, *names: str) -> Path:
    for name in names:
        version = folder / f"{name}_anytime" / "1"
        version.mkdir(parents=True)
        (version / "catalog.json").write_text(json.dumps(CATALOG.to_json()))
    return folder


class TestModels:
    def test_the_only_one(self, tmp_path: Path) -> None:
        folder = find_model(repository(tmp_path, "cells"), None)
        assert folder == tmp_path / "cells_anytime" / "1"
        assert read_catalog(folder) == CATALOG

    def test_one_of_several(self, tmp_path: Path) -> None:
        repository(tmp_path, "cells", "streets")
        assert find_model(tmp_path, "streets").parts[-2] == "streets_anytime"
        with pytest.raises(StartError, match="cells, streets"):
            find_model(tmp_path, None)
        with pytest.raises(StartError, match="no model 'sea'"):
            find_model(tmp_path, "sea")

    def test_none(self, tmp_path: Path) -> None:
        with pytest.raises(StartError, match="no model in"):
            find_model(tmp_path / "missing", None)

    @pytest.mark.parametrize("text", ["", "{}", '{"format": 1}', "[1"])
    def test_unusable(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "catalog.json").write_text(text)
        with pytest.raises(StartError, match=r"catalog\.json cannot be used"):
            read_catalog(tmp_path)

    def test_backend_is_of_the_model(self, tmp_path: Path) -> None:
        settings = Settings(model_repository=repository(tmp_path, "cells"))
        metrics = Metrics(CollectorRegistry(), FakeClock())
        backend = create_backend(settings, metrics, FakeClock())
        assert backend.catalog == CATALOG
        assert not backend.ready

    def test_runners_are_imported_when_chosen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(StartError, match="no runtime 'magic'"):
            open_runner("magic", tmp_path, None)
        folder = find_model(repository(tmp_path, "cells"), None)
        monkeypatch.setitem(sys.modules, "serving.runners.openvino", Runners())  # type: ignore[arg-type]
        assert open_runner("openvino", folder, 2) == (folder, CATALOG, 2)  # type: ignore[comparison-overlap]


class Runners:
    """A module whose runner is the arguments it was made with."""

    @staticmethod
    def OpenVinoRunner(*arguments: Any) -> tuple[Any, ...]:  # noqa: N802
        return arguments


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
