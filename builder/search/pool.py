"""Who evaluates the children of a batch: this process, or several others."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, Self

from builder.search.evaluators.base import Evaluation, Evaluator, Job
from reporting.machine import machine

MAX_DEATHS = 3
"""Number of processes that may die over a child before it counts as failed."""

DIED = f"{MAX_DEATHS} processes died over it"
"""Problem of such a child."""

_evaluator: Evaluator | None = None
"""Evaluator of a process of the pool."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """Outcome of a job, and how long it took this time."""

    job: Job
    evaluation: Evaluation
    seconds: float
    where: Mapping[str, str]
    """Machine and versions that evaluated it, of ``machine_and_versions``."""


class Pool(Protocol):
    """Something that evaluates jobs."""

    def run(self, jobs: Sequence[Job]) -> Iterator[JobResult]:
        """Yield the results, in the order in which jobs end."""
        ...


OpenPool = Callable[[Evaluator, int], AbstractContextManager[Pool]]
"""Function that opens the pool of an evaluator, for a number of workers."""


class ThisProcess:
    """A pool that evaluates one job after the other, in this process."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def run(self, jobs: Sequence[Job]) -> Iterator[JobResult]:
        """Yield the results, in the order of the jobs."""
        for job in jobs:
            yield timed(self._evaluator, job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Processes:
    """A pool of several processes.

    One that dies is replaced, and its child evaluated again: where training goes on from its last
    epoch.
    """

    def __init__(self, evaluator: Evaluator, count: int) -> None:
        self._evaluator, self._count = evaluator, count
        self._others = set(multiprocessing.active_children())
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # Fresh processes: a fork would take along whatever threads and locks this one has.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(
            self._count, mp_context=context, initializer=_prepare, initargs=(self._evaluator,)
        )

    def run(self, jobs: Sequence[Job]) -> Iterator[JobResult]:
        """Yield the results, in the order in which jobs end."""
        left = {job.index: job for job in jobs}
        while left:
            try:
                futures = [self._pool.submit(_evaluate, job) for job in left.values()]
                # The executor's thread wakes up for what is submitted, and then waits for the death
                # of those processes that there are, which may be before the one is there that the
                # last job was given. So it wakes up once more.
                self._pool.submit(int)
                for future in as_completed(futures):
                    result = future.result()
                    del left[result.job.index]
                    yield result
            except BrokenProcessPool:
                self._restart()
                # Which of those that ran took its process along is not known: the first ones ran.
                # Each goes on by itself, so that none counts as failed for what its neighbour did.
                for job in list(left.values())[: self._count]:
                    yield self._by_itself(left.pop(job.index))

    def _by_itself(self, job: Job) -> JobResult:
        """Evaluate a job over which a process may have died, while nothing else runs."""
        for _ in range(MAX_DEATHS - 1):
            try:
                return self._pool.submit(_evaluate, job).result()
            except BrokenProcessPool:
                self._restart()
        return crash_result(job)

    def _restart(self) -> None:
        self._pool.shutdown(wait=True)
        self._pool = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # what runs would be waited for
            for process in set(multiprocessing.active_children()) - self._others:
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _prepare(evaluator: Evaluator) -> None:
    """Begin a process of the pool."""
    global _evaluator  # noqa: PLW0603  there is no other way to hand it to what runs here
    _evaluator = evaluator
    begin_worker()


def begin_worker() -> None:
    """Make this process one that works for its parent.

    It is deaf to Ctrl-C, which its parent hears, and gone when that is, even if it was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _evaluate(job: Job) -> JobResult:
    assert _evaluator is not None
    return timed(_evaluator, job)


def timed(evaluator: Evaluator, job: Job) -> JobResult:
    """Evaluate a job in this process. Raises what the evaluator raises."""
    started_s = time.monotonic()
    evaluation = evaluator.evaluate(job)
    return JobResult(job, evaluation, time.monotonic() - started_s, machine_and_versions())


def evaluate_elsewhere(evaluator: Evaluator, job: Job, journal: Path) -> JobResult:
    """Evaluate a job in this process, which may be on another machine than the search.

    Where ``journal`` is not to be seen, nobody else sees what is kept to go on with the child, so
    that is removed here. Raises what the evaluator raises.
    """
    try:
        return timed(evaluator, job)
    finally:
        if not journal.exists():
            evaluator.forget(job.index)


def crash_result(job: Job) -> JobResult:
    """Return the result of a job over which too many processes died."""
    return JobResult(job, Evaluation((), DIED), 0.0, machine_and_versions())


@cache
def machine_and_versions() -> Mapping[str, str]:
    """Return this machine, and the versions of what evaluates on it."""
    names = ("punctual", "torch", "numpy")
    return {"machine": machine(), "python": platform.python_version()} | {
        name: version(name) for name in names
    }


def open_pool(evaluator: Evaluator, workers: int) -> AbstractContextManager[Pool]:
    """Return the pool for so many workers."""
    if workers == 1 and evaluator.is_light:
        return ThisProcess(evaluator)
    return Processes(evaluator, workers)
