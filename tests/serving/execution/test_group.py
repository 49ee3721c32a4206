"""Executors side by side: who goes where, and that each request ends once."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from serving.core.request import Answered, Cancelled, Request, Result, Superseded
from serving.execution.engine import Engine, start_engine
from tests.e2e.process import eventually
from tests.serving.gated import GATED_FAMILY, GatedRunner
from tests.serving.world import IMAGE, Recorder

NUM_INSTANCES = 2


class Group:
    """An engine of two gated runners, and how its requests ended."""

    def __init__(self) -> None:
        self.runners = [GatedRunner() for _ in range(NUM_INSTANCES)]
        self.ends: list[Result] = []
        self.engine: Engine = start_engine(
            self.runners,
            GATED_FAMILY,
            clock=time.monotonic,
            observer=Recorder(),
            max_waiting=64,
            max_cohorts=4,
        )

    def submit(self, id: int, stream: str = "") -> None:
        now_s = time.monotonic()
        request = Request(id, now_s, now_s + 60.0, 1, GATED_FAMILY.num_exits, stream=stream)
        self.engine.executor.submit(request, IMAGE, self.ends.append)

    def wait_for_runs(self, *counts: int) -> None:
        """Wait until so many runs of each runner have begun."""
        eventually(lambda: [len(runner.runs) for runner in self.runners] == [*counts])


@pytest.fixture
def group() -> Iterator[Group]:
    group = Group()
    yield group
    for runner in group.runners:
        runner.let(math.inf)
    group.engine.stop(0.0)


def test_two_requests_run_at_the_same_time(group: Group) -> None:
    group.submit(0)
    group.wait_for_runs(1, 0)
    group.submit(1)
    group.wait_for_runs(1, 1)
    assert group.engine.executor.num_waiting == 2


def test_each_goes_to_whoever_has_the_fewest(group: Group) -> None:
    for id in range(4):
        group.submit(id)
    group.wait_for_runs(1, 1)
    group.runners[1].let(math.inf)
    eventually(lambda: len(group.ends) == 2)
    assert {end.request.id for end in group.ends} == {1, 3}
    group.submit(4)
    eventually(lambda: len(group.ends) == 3)
    assert group.ends[-1].request.id == 4


def test_whoever_is_cancelled_is_found(group: Group) -> None:
    for id in range(4):
        group.submit(id)
    group.wait_for_runs(1, 1)
    for id in (3, 17):  # of whom one is unknown
        group.engine.executor.cancel(id)
    group.runners[1].let(1)
    eventually(lambda: any(isinstance(end, Cancelled) for end in group.ends))
    assert [end.request.id for end in group.ends if isinstance(end, Cancelled)] == [3]
    group.engine.executor.cancel(3)  # who has ended


def test_stopping_lets_all_of_them_end(group: Group) -> None:
    for id in range(6):
        group.submit(id)
    stopping = threading.Thread(target=group.engine.stop, args=(60.0,))
    stopping.start()
    for runner in group.runners:
        runner.let(math.inf)
    stopping.join()
    assert Counter(end.request.id for end in group.ends) == Counter(range(6))
    assert all(isinstance(end, Answered) for end in group.ends)
    assert group.engine.executor.num_waiting == 0


def test_each_has_its_share_of_those_who_may_wait() -> None:
    """What is refused is refused at once, and nobody is remembered for it."""
    group = Group()
    for id in range(70):
        group.submit(id)
    eventually(lambda: group.engine.executor.num_waiting == 64)
    assert len(group.ends) == 6
    for runner in group.runners:
        runner.let(math.inf)
    group.engine.stop(60.0)
    assert Counter(end.request.id for end in group.ends) == Counter(range(70))


def test_predictions_are_of_an_idle_engine_and_of_the_slowest(group: Group) -> None:
    executor = group.engine.executor
    exits = range(1, GATED_FAMILY.num_exits + 1)
    assert all(0.0 <= executor.predicted_s(depth) <= executor.tail_s(depth) for depth in exits)


def test_a_frame_supersedes_another_wherever_that_waits(group: Group) -> None:
    for number in range(NUM_INSTANCES):  # which keep all runners busy
        group.submit(number)
        group.wait_for_runs(*[1] * (number + 1), *[0] * (NUM_INSTANCES - number - 1))
    for number in range(4):
        group.submit(10 + number, stream="cam")
        group.submit(20 + number)  # so that the other executor has fewer, at times
    for runner in group.runners:
        runner.let(math.inf)
    eventually(lambda: len(group.ends) == NUM_INSTANCES + 8)
    superseded = {end.request.id for end in group.ends if isinstance(end, Superseded)}
    assert superseded == {10, 11, 12}
