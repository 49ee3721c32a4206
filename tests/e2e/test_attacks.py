"""A small client beside one that sends as much as it likes of what may hurt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e.attacks import attacking, serving, victim
from tests.e2e.process import Server

NUM_REQUESTS, RATE_HZ = 20, 4.0
ENOUGH = 0.75
"""Share that is to be answered where other tests want the processors as well. Without shares it is
0 to .5; what it is on a machine that does nothing else, ``tests.e2e.attacks`` says."""

ATTEMPTS = 3
"""How often the victim tries: the machine may stand still for most of the seconds that it takes,
but hardly each time. A server without shares fails all."""

MODEL = "bccd"
"""Model of the server: it starts within seconds, and has exits as deep as one may ask for."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(MODEL) as started:
        yield started


@pytest.mark.parametrize(
    "attack",
    [
        "60 ordinary requests/s",
        "25-megapixel PNGs at 4/s",
        "progressive JPEGs of 500 scans at 4/s",
        "25-megapixel WebPs of 1 kB at 4/s",
        "PNGs of one column at 4/s",
        "GET /metrics at 150/s",
        "streaming min_depth=7 at 60/s",
    ],
)
def test_a_small_client_is_answered(server: Server, attack: str) -> None:
    seen: list[Counter[str]] = []
    with attacking(server, attack):
        while len(seen) < ATTEMPTS:
            seen.append(victim(server, NUM_REQUESTS, RATE_HZ))
            if seen[-1]["200"] >= ENOUGH * NUM_REQUESTS:
                return
    raise AssertionError(seen)
