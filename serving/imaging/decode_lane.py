"""Lanes of a decode pool: threads that do jobs for several principals, each in its turn.

enter -> fair queue -> thread -> whoever waits, in the event loop
  |          |            |
  |          |            '-- its client has left: stopped at the next checkpoint
  |          '-- its time has passed, its client has left, a newer frame has come
  '-- too much waits
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from serving.core.errors import Overloaded, ServingError, ShedReason
from serving.core.fair_queue import FairQueue, Waiting
from serving.core.ports import Clock
from serving.core.streams import superseded
from serving.imaging.pixels import Checkpoint

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request's turn depends on. Instants are seconds of the server's clock."""

    deadline_s: float = math.inf
    latest_start_s: float = math.inf
    """Instant after which its deadline cannot be met any more."""
    principal: Hashable = None
    """Whom its time is charged to."""
    weight: float = 1.0
    """Share of its principal, in proportion to those of the others."""
    stream: str = ""
    """Name of the principal's stream that it is a frame of; empty if it is of none."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a piece of work is expected to cost."""

    seconds: float
    num_bytes: int = 0


class Job(Generic[T]):
    """A piece of work, and what becomes of it. Made in the event loop that waits for it."""

    def __init__(self, work: Callable[[Checkpoint], T], cost: Cost, claim: Claim) -> None:
        self.work = work
        self.cost = cost
        self.claim = claim
        self.due_s = math.inf
        """Instant by whose order it has its turn, if that is before its deadline."""
        self.started_s = 0.0
        self.has_waited = False
        """Whether it had to wait for a thread."""
        self.is_stopped = False
        """Whether nobody wants its result any longer."""
        self._loop = asyncio.get_running_loop()
        self.result: asyncio.Future[T] = self._loop.create_future()

    def end(self, result: T | None, error: BaseException | None = None) -> None:
        """Tell whoever waits for it, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(_settle, self.result, result, error)

    def drop(self) -> None:
        """Tell whoever waits for it that nothing will come of it, from any thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.result.cancel)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # nobody waits for it any longer
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class Lane:
    """Some threads and what waits for them, within a number of bytes. Its lock guards it all."""

    def __init__(
        self,
        name: str,
        *,
        num_workers: int,
        max_pending: int,
        max_bytes: int,
        clock: Clock,
        processor_clock: Clock,
        do: Callable[[Job[Any]], Any],
    ) -> None:
        """Make one of which each thread does its jobs as ``do`` does."""
        self.max_bytes = max_bytes
        self._clock = clock
        self._processor_clock = processor_clock
        self._do = do
        self._num_workers = num_workers
        self._capacity = num_workers + max_pending
        self._threads = _Threads(name)
        self._changed = threading.Condition()
        self._queue: FairQueue[Job[Any]] = FairQueue()
        self._running: set[Job[Any]] = set()
        self._num_coming = 0
        """Number of calls that the threads have been given and have not begun."""
        self._is_closed = False

    def wait_s(self, cost: Cost, claim: Claim) -> float:
        """Return the seconds until a newcomer would have its turn, as expected."""
        with self._changed:
            if len(self._running) < self._num_workers and not self._queue:
                return 0.0
            now_s = self._clock()
            running_s = sum(
                max(0.0, job.started_s + job.cost.seconds - now_s) for job in self._running
            )
            ahead_s = self._queue.ahead_s(
                claim.principal, claim.deadline_s, cost.seconds, claim.weight
            )
            return (running_s + ahead_s) / self._num_workers

    async def run(self, job: Job[T]) -> T:
        """Return what comes of a job, once it has had its turn.

        Raises Overloaded when too much waits, or its time has passed while it did.
        """
        waiting = self._enter(job)
        try:
            return await job.result
        except asyncio.CancelledError:
            job.is_stopped = True
            with self._changed:
                self._queue.remove(waiting)
                self._changed.notify_all()
            raise
        finally:
            # An error knows this frame and the job knows the error: with what else both know, such
            # as the file, they would stay until the next collection.
            del job, waiting

    def supersede(self, claim: Claim) -> float:
        """End what waits of the stream of a newer frame.

        Returns the instant that it was due at, or infinity if nothing waited.
        """
        with self._changed:
            waiting = self._queue.waiting_of(claim.principal)
            older = [each for each in waiting if each.item.claim.stream == claim.stream]
            for each in older:
                self._queue.remove(each)
            self._changed.notify_all()
        for each in older:
            each.item.end(None, superseded())
        return min((each.deadline_s for each in older), default=math.inf)

    def close(self) -> None:
        """Drop what waits, stop what runs, and let the threads end."""
        with self._changed:
            self._is_closed = True
            while waiting := self._queue.take():
                waiting.item.drop()
            for job in self._running:
                job.is_stopped = True
            self._changed.notify_all()
        self._threads.close()

    def _enter(self, job: Job[Any]) -> Waiting[Job[Any]]:
        claim, displaced = job.claim, None
        with self._changed:
            if self._is_closed:
                raise Overloaded("The server is shutting down.", ShedReason.REJECTED_DRAINING)
            if len(self._running) + len(self._queue) >= self._capacity:
                displaced = self._queue.displaced_by(claim.principal)
                if displaced is None:
                    raise self._full(job)
                self._queue.remove(displaced)
            job.has_waited = len(self._running) + len(self._queue) >= self._num_workers
            waiting = self._queue.push(
                job,
                claim.principal,
                min(claim.deadline_s, job.due_s),
                job.cost.seconds,
                claim.weight,
            )
            is_short = self._num_coming < len(self._queue)
            self._num_coming += is_short
            num_wanted = min(self._num_workers, len(self._running) + self._num_coming)
        if displaced is not None:
            displaced.item.end(None, self._full(displaced.item))
        if is_short:
            self._threads.call(self._serve, num_wanted)
        return waiting

    def _full(self, job: Job[Any]) -> Overloaded:
        return Overloaded(
            "Too many images are waiting to be decoded.",
            ShedReason.REJECTED_SATURATED,
            job.cost.seconds * self._capacity / self._num_workers,
        )

    def _serve(self) -> None:
        """Do what is next, in a thread."""
        with self._changed:
            self._num_coming -= 1
            job = self._next()
            if job is None:
                return
            job.started_s = self._clock()
            self._running.add(job)
        before_s = self._processor_clock()
        result: Any = None
        failure: BaseException | None = None
        try:
            result = self._do(job)
        except BaseException as error:
            failure = error
        with self._changed:
            self._running.discard(job)
            beyond_s = self._processor_clock() - before_s - job.cost.seconds
            self._queue.charge(job.claim.principal, beyond_s, job.claim.weight)
            self._changed.notify_all()
        job.end(result, None if failure is None else _without_frames(failure))
        del failure

    def _next(self) -> Job[Any] | None:
        """Take out what is next, once there is memory for it; None if nothing is left."""
        while (waiting := self._queue.first()) is not None:
            job = waiting.item
            if job.has_waited and self._clock() > job.claim.latest_start_s:
                self._queue.remove(waiting)
                job.end(
                    None,
                    Overloaded(
                        "The image waited to be decoded until its deadline could not be met.",
                        ShedReason.REJECTED_EXPIRED,
                        job.cost.seconds,
                    ),
                )
                continue
            taken = sum(each.cost.num_bytes for each in self._running)
            if self._running and taken + job.cost.num_bytes > self.max_bytes:
                self._changed.wait()
                continue
            self._queue.take()
            return job
        return None


def _without_frames(error: BaseException) -> BaseException:
    """Return an error that holds no frames, and so no pixels, if it is for who sent the image."""
    each: BaseException | None = error
    while isinstance(error, ServingError) and each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error


class _Threads:
    """Threads that do what they are called for, each started when it is first wanted.

    The end of the process does not wait for them, and they end with this.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._num_threads = 0
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        weakref.finalize(self, self._calls.put, None)

    def call(self, function: Callable[[], None], num_wanted: int) -> None:
        """Have a thread call ``function``, of as many as are wanted now.

        To be called in one thread.
        """
        self._calls.put(function)
        while self._num_threads < num_wanted:
            name = f"{self._name}_{self._num_threads}"
            threading.Thread(target=_work, args=(self._calls,), name=name, daemon=True).start()
            self._num_threads += 1

    def close(self) -> None:
        """Let the threads end, once they have done what they are called for."""
        self._calls.put(None)


def _work(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    # What it is called for is not to live for as long as the next call is waited for.
    while (function := calls.get()) is not None:
        function()
        del function
    calls.put(None)  # for the others
