"""The processor time of a process by part: parts add up, and each gets what was its own."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from serving.core.observing import DECISION, EXECUTOR
from serving.observability.processor_time import (
    ADMISSION,
    DECODE,
    ENGINE,
    EVENT_LOOP,
    PARTS,
    REPLY,
    ProcessorTime,
)
from tests.serving.fakes import FakeClock


class Bench:
    def __init__(self) -> None:
        self.thread, self.process = FakeClock(), FakeClock()
        self.time = ProcessorTime(self.thread, self.process)
        self.thread.now = self.process.now = 0.0


def test_what_is_left_of_a_thread_and_of_the_process_is_a_part_too() -> None:
    bench = Bench()
    with bench.time.spending(ADMISSION):
        bench.thread.now += 1.0
    with bench.time.spending(REPLY):
        bench.thread.now += 2.0
    bench.thread.now += 4.0
    bench.time.add(DECODE, 8.0)
    bench.time.add(DECISION, 16.0)
    bench.time.add(EXECUTOR, 32.0)
    bench.process.now = 127.0
    totals = bench.time.totals()
    assert totals == {
        EVENT_LOOP: 4.0,
        ADMISSION: 1.0,
        REPLY: 2.0,
        DECODE: 8.0,
        DECISION: 16.0,
        EXECUTOR: 32.0,
        ENGINE: 64.0,
    }
    assert tuple(totals) == PARTS


def test_what_ends_in_an_error_is_counted() -> None:
    bench = Bench()

    def fail() -> None:
        with bench.time.spending(REPLY):
            bench.thread.now += 2.0
            raise ValueError("nothing")

    with pytest.raises(ValueError, match="nothing"):
        fail()
    assert bench.time.totals()[REPLY] == 2.0


def test_it_is_exported_as_a_counter_with_every_part_from_the_start() -> None:
    bench, registry = Bench(), CollectorRegistry()
    registry.register(bench.time)
    bench.time.add(DECODE, 0.5)
    name = "punctual_processor_seconds_total"
    exported = {part: registry.get_sample_value(name, {"part": part}) for part in PARTS}
    assert exported == {part: 0.5 if part == DECODE else 0.0 for part in PARTS}
