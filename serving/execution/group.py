"""A group of executors that run side by side, each with threads of its own: instances of an engine.

A request goes to the executor that has the fewest when it comes, and stays there; a frame goes to
the one where an older frame of its stream waits, whose place it takes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from serving.core.ports import Clock, Image
from serving.core.request import Request, Result
from serving.execution.executor import Executor
from serving.execution.jobs import Done, OnExit


class ExecutorGroup:
    """A ``RequestExecutor`` over ``executors``, which are not started."""

    def __init__(self, executors: Sequence[Executor]) -> None:
        self._executors = tuple(executors)
        self._places: dict[int, Executor] = {}
        """Executor of each request that has not ended, by the request's id."""

    @property
    def clock(self) -> Clock:
        return self._executors[0].clock

    @property
    def num_waiting(self) -> int:
        return sum(executor.num_waiting for executor in self._executors)

    @property
    def num_in_flight(self) -> int:
        return sum(executor.num_in_flight for executor in self._executors)

    @property
    def num_held(self) -> int:
        return sum(executor.num_held for executor in self._executors)

    def predicted_s(self, depth: int, model: int | None = None) -> float:
        return min(executor.predicted_s(depth, model) for executor in self._executors)

    def tail_s(self, depth: int, model: int | None = None) -> float:
        return max(executor.tail_s(depth, model) for executor in self._executors)

    def submit(
        self, request: Request, image: Image, done: Done, on_exit: OnExit | None = None
    ) -> None:
        def ended(result: Result) -> None:
            del self._places[request.id]
            done(result)

        awaiting = (each for each in self._executors if each.is_awaited(request))
        executor = next(awaiting, None) or min(self._executors, key=_load)
        self._places[request.id] = executor
        executor.submit(request, image, ended, on_exit)

    def cancel(self, request_id: int) -> None:
        executor = self._places.get(request_id)
        if executor is not None:
            executor.cancel(request_id)

    def conclude(self, request_id: int) -> None:
        executor = self._places.get(request_id)
        if executor is not None:
            executor.conclude(request_id)

    def start(self) -> None:
        for executor in self._executors:
            executor.start()

    def stop(self, grace_s: float) -> bool:
        """Stop all executors at once; return whether the loops of all have ended."""
        ended: list[bool] = []
        stopping = [
            threading.Thread(target=lambda each=each: ended.append(each.stop(grace_s)))
            for each in self._executors
        ]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        return all(ended)

    # -- a thread that hangs -----------------------------------------------------------------------

    @property
    def is_stalled(self) -> bool:
        return any(executor.is_stalled for executor in self._executors)

    @property
    def is_lost(self) -> bool:
        return any(executor.is_lost for executor in self._executors)

    @property
    def is_running(self) -> bool:
        return any(executor.is_running for executor in self._executors)

    def abandon(self, error: Exception) -> bool:
        """Abandon those that are stalled, and give up the others with them.

        They are one engine, and its place is taken as a whole. Returns False, and does nothing, if
        none is stalled.
        """
        abandoned = [executor.abandon(error) for executor in self._executors]
        if not any(abandoned):
            return False
        for executor in self._executors:
            executor.give_up(error)
        return True


def _load(executor: Executor) -> int:
    """Return the number of requests that an executor has.

    Those with an answer in hand count as well: most are being run again, or are about to be.
    """
    return executor.num_waiting + executor.num_in_flight + executor.num_held
