"""Processor time of a gateway's process, by what it goes to.

    event loop's thread    admission | reply | event_loop, which is all else it does: HTTP, routing
    decoding threads       decode
    executor's thread      decision | executor | what it does within runs of segments
    all other threads      engine, which includes those runs: the runtime's threads, loading

Busy neighbours lengthen what a clock says, and hardly what this says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from serving.core.observing import DECISION, EXECUTOR
from serving.core.ports import Clock

EVENT_LOOP, ENGINE = "event_loop", "engine"
ADMISSION, REPLY, DECODE = "admission", "reply", "decode"
_COUNTED = (ADMISSION, REPLY, DECODE, DECISION, EXECUTOR)
PARTS = (EVENT_LOOP, *_COUNTED, ENGINE)
"""Parts that a process's processor time is divided into; they add up to all of it."""


class ProcessorTime(Collector):
    """One process's processor time by part, exported as a counter.

    Made and collected in the event loop's thread, whose time is then read; ``add`` is thread-safe.
    ``thread_clock`` gives the seconds that the calling thread has had a processor,
    ``process_clock`` those of all threads, also of those that have ended.
    """

    def __init__(
        self,
        thread_clock: Clock = time.thread_time,
        process_clock: Clock = time.process_time,
    ) -> None:
        self._thread_clock = thread_clock
        self._process_clock = process_clock
        self._lock = threading.Lock()
        self._counted = dict.fromkeys(_COUNTED, 0.0)

    def add(self, part: str, seconds: float) -> None:
        """Count ``seconds`` towards ``part``, which is measured neither whole nor as the rest."""
        with self._lock:
            self._counted[part] += seconds

    def spending(self, part: str) -> AbstractContextManager[None]:
        """Return a context in which what the calling thread computes counts towards ``part``.

        Nothing may be awaited in it.
        """
        return _Spending(self, part, self._thread_clock)

    def totals(self) -> dict[str, float]:
        """Return the seconds since the process began, by part."""
        thread_s, process_s = self._thread_clock(), self._process_clock()
        with self._lock:
            counted = dict(self._counted)
        event_loop_s = thread_s - counted[ADMISSION] - counted[REPLY]
        return {
            EVENT_LOOP: event_loop_s,
            **counted,
            ENGINE: max(0.0, process_s - event_loop_s - sum(counted.values())),
        }

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Return the family without samples, so that registering reads no clock."""
        return (self._family(),)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield one sample of each part."""
        family = self._family()
        for part, seconds in self.totals().items():
            family.add_metric([part], seconds)
        yield family

    @staticmethod
    def _family() -> CounterMetricFamily:
        return CounterMetricFamily(
            "punctual_processor_seconds",
            "Processor time of this process, by what it went to.",
            labels=["part"],
        )


class _Spending(AbstractContextManager[None]):
    """A context whose processor time is counted: entered several times for each request."""

    __slots__ = ("_clock", "_part", "_started_s", "_total")

    def __init__(self, total: ProcessorTime, part: str, clock: Clock) -> None:
        self._total = total
        self._part = part
        self._clock = clock

    def __enter__(self) -> None:
        self._started_s = self._clock()

    def __exit__(self, *_: object) -> None:
        self._total.add(self._part, self._clock() - self._started_s)
