"""Bound on how often one place in the code may log, so that garbage from a client fills no disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from serving.core.ports import Clock

BURST = 20
"""Number of lines of one place that are written at once."""
INTERVAL_S = 1.0
"""Seconds after which a place may write one more."""
MAX_PLACES = 1000


@dataclass(slots=True)
class _Place:
    allowance: float
    seen_s: float
    num_left_out: int = 0


class LogRate(logging.Filter):
    """Filter that lets each place in the code log so often, and then says what it left out.

    Errors of this program's own making, which should not be many, are no exception: a client may
    find out how to cause one.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._places: dict[tuple[str, int], _Place] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is to be written.

        Those for debugging are: they were asked for.
        """
        if record.levelno < logging.INFO:
            return True
        now_s = self._clock()
        key = (record.pathname, record.lineno)
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            place = self._places[key] = _Place(BURST, now_s)
        place.allowance = min(BURST, place.allowance + (now_s - place.seen_s) / INTERVAL_S)
        place.seen_s = now_s
        if place.allowance < 1.0:
            place.num_left_out += 1
            return False
        place.allowance -= 1.0
        if place.num_left_out:
            record.msg = f"{record.getMessage()} (and {place.num_left_out} like it before)"
            record.args = ()
            place.num_left_out = 0
        return True
