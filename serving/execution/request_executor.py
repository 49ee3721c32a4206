"""What the host of an engine asks of its executor, or of several that run side by side."""

from __future__ import annotations

from typing import Protocol

from serving.core.ports import Clock, Image, Occupancy
from serving.core.request import Request
from serving.execution.jobs import Done, OnExit


class RequestExecutor(Occupancy, Protocol):
    """An executor of requests: one (``Executor``), or a group of them (``ExecutorGroup``).

    All of it but ``start`` and ``stop`` may be called from any thread.
    """

    @property
    def clock(self) -> Clock:
        """Clock whose instants requests are given in."""

    def submit(
        self, request: Request, image: Image, done: Done, on_exit: OnExit | None = None
    ) -> None:
        """Take a request; ``done`` is called exactly once, whatever becomes of it.

        Before that ``on_exit`` is called for each answer that it does not end with at once; it may
        end with the last of these all the same, as when no better one came in time.
        """

    def cancel(self, request_id: int) -> None:
        """Drop a request at the next segment boundary; no effect once it has ended."""

    def conclude(self, request_id: int) -> None:
        """End a request at the next segment boundary with the answer it has; no effect once it has.

        One without an answer is dropped. Whoever waits for a held request need not wait for the
        engine: it takes the answer in hand when it must, and says so by this.
        """

    def start(self) -> None:
        """Run the loop in a thread of its own."""

    def stop(self, grace_s: float) -> bool:
        """Refuse new requests, give those inside ``grace_s`` seconds to end, and stop the loop.

        The rest end as shed, or with the answer they have. Returns whether the loop has ended, so
        that the runner may be closed: a thread that hangs is left to itself.
        """

    @property
    def is_stalled(self) -> bool:
        """Whether the step under way ought to be over, or the loop or the engine has ended."""

    @property
    def is_lost(self) -> bool:
        """Whether the engine has said that it has gone."""

    @property
    def is_running(self) -> bool:
        """Whether the thread is there, which outlives being abandoned for as long as it hangs."""

    def abandon(self, error: Exception) -> bool:
        """End everybody inside as failed by ``error``, and leave the thread to itself.

        Whoever comes from now on fails the same way. If the thread ever returns from where it
        hangs, it ends there. Returns False, and does nothing, if it has just returned.
        """
