from __future__ import annotations

import os

import pytest

from tests.serving.gateway import Gateway


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PUNCTUAL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()
