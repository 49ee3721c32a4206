"""The timer of one request, for all that is waited for on its way.

    by(instant) body | by(instant) decoding | by(instant) engine
        |
        '--- one timer of the event loop, set at first and left: most of it ends at the deadline

Each wait ends as ``asyncio.timeout`` would end it, at a fraction of what that costs.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from serving.core.ports import Clock


class RequestTimer:
    """A timer that ends one wait after the other, each by an instant of ``clock``.

    For one task at a time, and no wait within another.
    """

    __slots__ = ("_due_s", "_handle", "_is_over", "_num_cancels", "_task", "clock")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None  # which waits now
        self._due_s = 0.0  # by the event loop's clock
        self._num_cancels = 0
        self._is_over = False

    def by(self, instant_s: float) -> RequestTimer:
        """Return a context that raises TimeoutError if it has not ended by then."""
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + instant_s - self.clock()
        return self

    def stop(self) -> None:
        """Let the event loop forget it, since nothing more is waited for."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def __enter__(self) -> None:
        assert self._task is None, "a wait within another"
        self._task = task = asyncio.current_task()
        assert task is not None, "there is no task to cancel"
        self._num_cancels, self._is_over = task.cancelling(), False
        if self._handle is None or self._handle.when() > self._due_s:
            self.stop()
            self._set(task.get_loop())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if not self._is_over:
            return
        assert task is not None
        # Someone else may have cancelled the task as well.
        if task.uncancel() <= self._num_cancels and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._handle = loop.call_at(self._due_s, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what is waited for, if its time has come, or else wait on."""
        self._handle = None
        if self._task is None:
            return
        if loop.time() < self._due_s:
            self._set(loop)
            return
        self._is_over = True
        self._task.cancel()
