from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from serving.composition import backend as composition
from serving.composition.backend import create_backend
from serving.core.command_errors import CommandError
from serving.core.policy import Policy
from serving.observability.metrics import Metrics
from serving.settings import Settings
from tests.serving.fakes import FAMILY, FakeClock, write_catalogs


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
        composition,
        "EmbeddedBackend",
        lambda family, _, start: SimpleNamespace(family=family, start=start),
    )
    monkeypatch.setattr(composition, "start_engine", lambda *_, **options: given.update(options))
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
