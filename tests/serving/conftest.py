from __future__ import annotations

import os
from typing import Any

import pytest

from tests.serving.gateway import Gateway
from tests.serving.loops import TolerantLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": TolerantLoop}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PUNCTUAL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()
