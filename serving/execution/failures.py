"""Failures inside an engine: each is counted, and the log hears of them without being flooded."""

from __future__ import annotations

import contextlib
import logging
import math

from serving.core.errors import BackendUnavailable, EngineLost
from serving.core.ports import Clock, Observer

log = logging.getLogger(__name__)

TELL_EVERY_S = 1.0
"""Seconds between two lines about failures of one kind: each brings a traceback, and an engine that
fails at every request would fill a disk with it."""


class Failures:
    """The failures of one engine."""

    def __init__(self, clock: Clock, observer: Observer) -> None:
        self._clock = clock
        self._observer = observer
        self._told: dict[str, tuple[float, int]] = {}
        """When the log last heard of a kind, and how many it has not heard of since."""
        self.is_lost = False
        """Whether one of them said that the engine has gone, which is its end."""

    def note(self, kind: str, what: str, error: Exception) -> None:
        """Count a failure of a ``kind`` of ``observing.FAULTS``, and say ``what`` failed.

        An engine that is not there has nothing to be debugged here, and its backend says so once.
        """
        with contextlib.suppress(Exception):  # nothing may fail here, where failures end
            self._observer.failed(kind)
        self.is_lost = self.is_lost or isinstance(error, EngineLost)
        if isinstance(error, BackendUnavailable):
            log.debug("%s: %s", what, error)
            return
        now_s = self._clock()
        told_s, num_untold = self._told.get(kind, (-math.inf, 0))
        if now_s - told_s < TELL_EVERY_S:
            self._told[kind] = (told_s, num_untold + 1)
            return
        self._told[kind] = (now_s, 0)
        more = f" ({num_untold} more of this kind were not told of)" if num_untold else ""
        log.error("%s%s", what, more, exc_info=error)
