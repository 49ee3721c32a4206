from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def promtool() -> str:
    """Prometheus' own checker of rules."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return found
