"""A client of a request a second beside one that sends as much as it likes of what may hurt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.attacks import ATTACKS, ENOUGH, attacking, serving, victim
from tests.e2e.process import Server

NUM_REQUESTS = 10

MODEL = "bccd"
"""Model of the server: it starts within seconds, and has exits as deep as one may ask for."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(MODEL) as started:
        yield started


@pytest.mark.parametrize("attack", [name for name in ATTACKS if ATTACKS[name].rate_hz])
def test_the_victim_is_answered(server: Server, attack: str) -> None:
    with attacking(server, attack):
        seen = victim(server, NUM_REQUESTS)
    assert seen["200"] >= ENOUGH * NUM_REQUESTS - 1, seen
