from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.process import Server, fake_server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server for all tests that leave it as they found it."""
    with fake_server(PUNCTUAL_MAX_BODY_BYTES=1_000_000) as started:
        yield started
