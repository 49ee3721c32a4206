from __future__ import annotations

import logging

import pytest

from serving.observability.log_rate import BURST, INTERVAL_S, MAX_PLACES, LogRate
from tests.serving.fakes import FakeClock


class Log:
    """A logger whose lines are bounded."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.rate = LogRate(self.clock)
        self.lines: list[str] = []

    def write(self, text: str, place: int = 1, level: int = logging.WARNING) -> None:
        record = logging.LogRecord("a", level, "a.py", place, "%s: %d", (text, place), None)
        if self.rate.filter(record):
            self.lines.append(record.getMessage())


def test_a_flood_is_cut_and_what_was_left_out_is_said() -> None:
    log = Log()
    for _ in range(BURST + 5):
        log.write("garbage")
    assert log.lines == ["garbage: 1"] * BURST
    log.clock.now += INTERVAL_S
    log.write("garbage")
    log.write("garbage")
    assert log.lines[BURST:] == ["garbage: 1 (and 5 like it before)"]


def test_others_are_not_concerned() -> None:
    log = Log()
    for _ in range(2 * BURST):
        log.write("garbage")
    log.write("of use", place=2)
    assert log.lines[-1] == "of use: 2"


def test_a_steady_trickle_is_written() -> None:
    log = Log()
    for _ in range(3 * BURST):
        log.write("trickle")
        log.clock.now += INTERVAL_S
    assert len(log.lines) == 3 * BURST


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_what_is_for_debugging_was_asked_for(level: int) -> None:
    log = Log()
    for _ in range(2 * BURST):
        log.write("detail", level=level)
    assert len(log.lines) == (2 * BURST if level == logging.DEBUG else BURST)


def test_places_have_a_bound() -> None:
    log = Log()
    for place in range(3 * MAX_PLACES):
        log.write("somewhere", place)
    assert len(log.rate._places) <= MAX_PLACES
