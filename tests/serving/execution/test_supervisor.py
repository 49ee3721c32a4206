"""An engine that hangs is given up and replaced; whoever was inside is told, once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from serving.core.errors import BackendError, EngineStalled
from serving.core.latency import LatencyModel
from serving.core.ports import Pause, no_pause
from serving.core.request import Answered, Failed, Request
from serving.execution import executor
from serving.execution import supervisor as module
from serving.execution.engine import Engine
from serving.execution.executor import Executor
from serving.execution.group import ExecutorGroup
from serving.execution.liveness import STALL_FACTOR, STALL_FLOOR_S
from serving.execution.supervisor import (
    MAX_FAILURES,
    MAX_HANGING,
    OPEN_WITHIN_S,
    PAUSE_S,
    RETRY_S,
    Supervisor,
)
from tests.serving.world import IMAGE, FakeClock, FakeRunner, Recorder, exact_profile, make_policy

TICK_S = PAUSE_S / 2


@dataclass(eq=False)
class Hanging(FakeRunner):
    """Hangs in each run until it is let go."""

    entered: threading.Event = field(default_factory=threading.Event)
    free: threading.Event = field(default_factory=threading.Event)
    closed: bool = False

    def run(self, segment: Any, batch: Any) -> Any:
        self.entered.set()
        self.free.wait()
        return super().run(segment, batch)

    def close(self, pause: Pause = no_pause, /) -> None:
        self.closed = True


class Bench:
    """A supervisor whose engines come from ``runners``, one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *runners: FakeRunner | Exception) -> None:
        monkeypatch.setattr(module, "LOOK_EVERY_S", 3600.0)  # it looks when the test says so
        self.clock = FakeClock()
        self.recorder = Recorder()
        self.runners = list(runners)
        self.learnt: list[Sequence[LatencyModel] | None] = []
        self.supervisor = Supervisor(self._open, self.clock)
        self.ends: list[Any] = []
        self.ended = threading.Semaphore(0)

    def _open(self, latencies: Sequence[LatencyModel] | None) -> Engine:
        self.learnt.append(latencies)
        runner = self.runners.pop(0)
        if isinstance(runner, Exception):
            raise runner
        runner.clock = self.clock
        (latency,) = latencies or (LatencyModel(exact_profile()),)
        executor = Executor(
            runner,
            make_policy(runner),
            latency,
            self.clock,
            self.recorder,
            max_waiting=8,
            probe_image=IMAGE,
        )
        executor.start()
        return Engine((runner,), executor, (latency,))

    def submit(self, id: int) -> None:
        engine = self.supervisor.engine
        assert engine is not None
        now_s = self.clock()
        engine.executor.submit(Request(id, now_s, now_s + 1e6, 1, 1), IMAGE, self._done)

    def _done(self, end: Any) -> None:
        self.ends.append(end)
        self.ended.release()

    def wait(self, seconds: float) -> None:
        """Let time pass while the supervisor looks, as often as it would."""
        for _ in range(int(seconds / TICK_S) + 1):
            self.clock.now_s += TICK_S
            self.supervisor.look()

    def until_given_up(self) -> None:
        """Let time pass until the engine is given up; not a look longer."""
        while self.supervisor.engine is not None:
            self.clock.now_s += TICK_S
            self.supervisor.look()

    def retry(self, after_s: float) -> None:
        """Let so much time pass after a failure, when it is tried again."""
        self.clock.now_s += after_s
        self.supervisor.look()

    def until_opened(self) -> None:
        opening = self.supervisor._opening
        assert opening is not None
        opening.over.wait()
        self.supervisor.look()


Make = Callable[..., Bench]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[tuple[Bench, tuple[Any, ...]]] = []

    def create(*runners: FakeRunner | Exception) -> Bench:
        made.append((Bench(monkeypatch, *runners), runners))
        return made[-1][0]

    yield create
    for bench, runners in made:
        for runner in runners:
            if isinstance(runner, Hanging):
                runner.free.set()
        bench.supervisor.stop(0.0)


def test_whoever_is_inside_when_it_hangs_is_told_and_another_engine_serves(make: Make) -> None:
    hanging = Hanging(FakeClock())
    bench = make(hanging, FakeRunner(FakeClock()))
    bench.supervisor.start()
    first = bench.supervisor.engine
    assert first is not None
    bench.submit(0)
    hanging.entered.wait()
    bench.submit(1)
    bench.wait(STALL_FLOOR_S - TICK_S)
    assert bench.ends == [], "it may yet return"
    bench.until_given_up()
    assert [(end.request.id, type(end.error)) for end in bench.ends] == [
        (0, EngineStalled),
        (1, EngineStalled),
    ]
    assert bench.supervisor.engine is None
    bench.until_opened()
    assert bench.learnt == [None, first.latencies], "what was known of run times is not lost"
    bench.submit(2)
    for _ in range(3):
        bench.ended.acquire()
    assert isinstance(bench.ends[-1], Answered)
    assert bench.recorder.failures == ["stalled"]
    assert len(bench.recorder.results) == 3
    assert not hanging.closed, "its thread is still inside"
    assert bench.supervisor.is_alive


def test_a_thread_that_returns_after_it_was_given_up_ends_and_tells_nobody(make: Make) -> None:
    hanging = Hanging(FakeClock())
    bench = make(hanging, FakeRunner(FakeClock()))
    bench.supervisor.start()
    engine = bench.supervisor.engine
    assert engine is not None
    bench.submit(0)
    hanging.entered.wait()
    bench.until_given_up()
    bench.until_opened()
    hanging.free.set()
    assert isinstance(engine.executor, Executor)
    assert engine.executor._liveness._thread is not None
    engine.executor._liveness._thread.join()
    assert len(bench.ends) == len(bench.recorder.results) == 1
    late: list[Any] = []
    engine.executor.submit(Request(1, 0.0, 1.0, 1, 1), IMAGE, late.append)
    assert [type(end) for end in late] == [Failed], "who comes to it all the same is told at once"


def test_a_run_that_takes_long_is_no_hang(make: Make) -> None:
    """Its bound is a multiple of what it seldom exceeds."""
    hanging = Hanging(FakeClock(), cost=lambda segment, batch: 10.0)
    bench = make(hanging)
    bench.supervisor.start()
    engine = bench.supervisor.engine
    assert engine is not None
    for segment in hanging.segments:
        for _ in range(200):
            engine.latencies[0].observe(segment, 1, 10.0)
    bench.submit(0)
    hanging.entered.wait()
    bench.wait(0.5 * STALL_FACTOR * 10.0)
    assert bench.ends == []
    hanging.free.set()
    bench.ended.acquire()
    assert isinstance(bench.ends[0], Answered)


def test_a_process_that_stood_still_says_nothing_about_the_engine(make: Make) -> None:
    hanging = Hanging(FakeClock())
    bench = make(hanging)
    bench.supervisor.start()
    bench.submit(0)
    hanging.entered.wait()
    bench.clock.now_s += 1000.0  # a suspended laptop, SIGSTOP
    bench.supervisor.look()
    assert bench.supervisor.engine is not None
    hanging.free.set()
    bench.ended.acquire()
    assert isinstance(bench.ends[0], Answered)


def test_a_process_that_stands_still_while_it_looks_says_nothing_either(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = Hanging(FakeClock())
    bench = make(hanging)
    bench.supervisor.start()
    bench.submit(0)
    hanging.entered.wait()
    read = FakeClock.__call__

    def stand_still(clock: FakeClock) -> float:
        monkeypatch.setattr(FakeClock, "__call__", read)
        read_s = read(clock)
        clock.now_s += 1000.0
        return read_s

    for _ in range(2):  # once while it looks, and then for longer than a step may take
        monkeypatch.setattr(FakeClock, "__call__", stand_still)
        bench.supervisor.look()
        assert bench.supervisor.engine is not None
    hanging.free.set()
    bench.ended.acquire()
    assert isinstance(bench.ends[0], Answered)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ended_without_being_told_is_replaced(make: Make) -> None:
    class Exits(FakeRunner):
        def run(self, segment: Any, batch: Any) -> Any:
            raise SystemExit

    bench = make(Exits(FakeClock()), FakeRunner(FakeClock()))
    bench.supervisor.start()
    engine = bench.supervisor.engine
    assert engine is not None
    bench.submit(0)
    assert isinstance(engine.executor, Executor)
    assert engine.executor._liveness._thread is not None
    engine.executor._liveness._thread.join()
    bench.supervisor.look()
    assert isinstance(bench.ends[0].error, EngineStalled)
    bench.until_opened()
    bench.submit(1)
    bench.ended.acquire()
    bench.ended.acquire()
    assert isinstance(bench.ends[1], Answered)


def test_an_engine_that_cannot_be_replaced_is_tried_on_and_said_to_be_dead(make: Make) -> None:
    hanging = Hanging(FakeClock())
    broken = [RuntimeError("no memory left") for _ in range(MAX_FAILURES)]
    bench = make(hanging, *broken, FakeRunner(FakeClock()))
    bench.supervisor.start()
    bench.submit(0)
    hanging.entered.wait()
    bench.until_given_up()
    for number in range(MAX_FAILURES):
        assert bench.supervisor.is_alive
        bench.until_opened()
        assert bench.supervisor.engine is None
        bench.retry(RETRY_S * 2**number)
    assert not bench.supervisor.is_alive
    bench.until_opened()
    assert bench.supervisor.is_alive
    assert bench.supervisor.engine is not None


def test_engines_that_hang_one_after_the_other_are_bounded(make: Make) -> None:
    hanging = [Hanging(FakeClock()) for _ in range(MAX_HANGING)]
    bench = make(*hanging, FakeRunner(FakeClock()))
    bench.supervisor.start()
    for id, runner in enumerate(hanging):
        bench.submit(id)
        runner.entered.wait()
        bench.until_given_up()
        if runner is not hanging[-1]:
            bench.until_opened()
    assert len(bench.ends) == MAX_HANGING
    assert bench.supervisor._opening is None, "no further one"
    assert not bench.supervisor.is_alive


def test_opening_that_hangs_is_given_up(make: Make) -> None:
    bench = make(Hanging(FakeClock()), FakeRunner(FakeClock()), FakeRunner(FakeClock()))
    bench.supervisor.start()
    never, opened = threading.Event(), bench._open
    bench.supervisor._open_engine = lambda latencies: opened(latencies) if never.wait() else None  # type: ignore[assignment, return-value]
    hanging = bench.supervisor.engine
    assert hanging is not None
    bench.submit(0)
    hanging.runners[0].entered.wait()  # type: ignore[attr-defined]
    bench.until_given_up()
    stuck = bench.supervisor._opening
    assert stuck is not None
    bench.retry(OPEN_WITHIN_S + TICK_S)
    assert bench.supervisor._opening is None
    bench.supervisor._open_engine = opened
    bench.retry(RETRY_S)
    bench.until_opened()
    assert bench.supervisor.engine is not None
    served = bench.supervisor.engine
    never.set()
    stuck.over.wait()
    bench.supervisor.look()
    assert not bench.supervisor._given_up, "it holds nothing any more"
    assert bench.supervisor.engine is served, "one that came too late is not taken"


def test_a_first_engine_that_never_opens_ends_the_start(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_WITHIN_S", 0.0)
    bench, free = make(FakeRunner(FakeClock())), threading.Event()
    opened = bench._open
    bench.supervisor._open_engine = lambda latencies: opened(latencies) if free.wait() else None  # type: ignore[assignment, return-value]
    with pytest.raises(BackendError, match="opening it took longer"):
        bench.supervisor.start()
    (stuck,) = bench.supervisor._given_up
    free.set()
    stuck.over.wait()
    assert bench.supervisor.engine is None
    assert stuck.engine is None, "one that came too late is freed"


def test_what_was_given_up_is_held_no_longer_than_it_hangs(make: Make) -> None:
    """An engine holds hundreds of megabytes."""
    hanging = Hanging(FakeClock())
    bench = make(hanging, FakeRunner(FakeClock()))
    bench.supervisor.start()
    bench.submit(0)
    hanging.entered.wait()
    bench.until_given_up()
    bench.until_opened()
    (given_up,) = bench.supervisor._abandoned
    hanging.free.set()
    assert isinstance(given_up, Executor)
    assert given_up._liveness._thread is not None
    given_up._liveness._thread.join()
    bench.supervisor.look()
    assert bench.supervisor._abandoned == []


def test_an_engine_that_is_no_longer_wanted_is_freed(make: Make) -> None:
    bench = make(FakeRunner(FakeClock()))
    bench.supervisor.stop(0.0)
    with pytest.raises(Exception, match="no longer wanted"):
        bench.supervisor.start()
    assert bench.supervisor.engine is None


def test_stop_does_not_wait_for_an_engine_that_hangs(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "STOP_WITHIN_S", 0.0)
    hanging = Hanging(FakeClock())
    bench = make(hanging)
    bench.supervisor.start()
    bench.submit(0)
    hanging.entered.wait()
    bench.supervisor.stop(0.0)
    assert len(bench.ends) == 1
    assert not hanging.closed


def test_with_the_one_that_hangs_the_others_of_a_group_are_given_up() -> None:
    clock, recorder = FakeClock(), Recorder()
    runners = [Hanging(clock), Hanging(clock)]
    executors = [
        Executor(
            runner,
            make_policy(runner),
            LatencyModel(exact_profile()),
            clock,
            recorder,
            max_waiting=8,
            probe_image=IMAGE,
        )
        for runner in runners
    ]
    group = ExecutorGroup(executors)
    ends: list[Any] = []
    group.start()
    group.submit(Request(0, 0.0, 1e6, 1, 1), IMAGE, ends.append)
    runners[0].entered.wait()
    assert not group.abandon(EngineStalled("It hung."))
    clock.now_s += STALL_FLOOR_S + TICK_S
    assert group.is_stalled
    assert group.abandon(EngineStalled("It hung."))
    for id in (1, 2):
        group.submit(Request(id, 0.0, 1e6, 1, 1), IMAGE, ends.append)
    assert [type(end) for end in ends] == [Failed] * 3
    assert recorder.failures == ["stalled"]
    for runner, executor_ in zip(runners, executors, strict=True):
        runner.free.set()
        assert executor_._liveness._thread is not None
        executor_._liveness._thread.join()
    assert not group.is_running
    assert len(recorder.results) == 3
