"""The clock of servers that tests start."""

from __future__ import annotations

import pytest

from tests.e2e.working_time import MOST_S, WorkingTime
from tests.serving.fakes import FakeClock


def test_it_stands_still_with_its_process() -> None:
    real = FakeClock()
    clock = WorkingTime(real)
    began_s = clock()
    real.now += 0.5 * MOST_S
    assert clock() - began_s == pytest.approx(0.5 * MOST_S)
    real.now += 100 * MOST_S
    assert clock() - began_s == pytest.approx(1.5 * MOST_S)
