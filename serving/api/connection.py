"""Clients' leaving, and work for a client that ends with it.

Whoever serves a connection says when its client has left: nobody has to wait for that in a task of
its own. What a request is served over is in its scope's state, under ``DEPARTURE``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from serving.core.errors import RequestCancelled

T = TypeVar("T")

DEPARTURE = "departure"
"""Name in the state of a request's scope under which the ``Departure`` of its client is."""


class Departure:
    """The leaving of one client, which ends what is done for it. For the event loop."""

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        """Make one; ``look`` is called whenever something begins that it would end.

        So whoever would have to read on to notice it does.
        """
        self.has_left = False
        self._look = look
        self._tasks: set[asyncio.Task[object]] = set()

    def leave(self) -> None:
        """Let the client have left, which cancels every task that works for it."""
        self.has_left = True
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()

    def watch(self, task: asyncio.Task[object]) -> None:
        """Have a task cancelled when the client leaves, who has not yet."""
        assert not self.has_left, "it has left"
        self._tasks.add(task)
        self._look()

    def unwatch(self, task: asyncio.Task[object]) -> None:
        """Leave a task alone from now on."""
        self._tasks.discard(task)


def departure_of(http: HttpRequest) -> Departure:
    """Return the departure of the client that has sent a request."""
    departure: Departure = http.scope["state"][DEPARTURE]
    return departure


async def while_connected(departure: Departure, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``, unless the client leaves first.

    Then ``work`` is cancelled, or not begun, and RequestCancelled raised.
    """
    if departure.has_left:
        work.close()
        raise RequestCancelled("The client left.")
    task = asyncio.current_task()
    assert task is not None, "there is no task to cancel"
    departure.watch(task)
    try:
        return await work
    except asyncio.CancelledError:
        if departure.has_left and task.uncancel() == 0:  # by nobody else
            raise RequestCancelled("The client left.") from None
        raise
    finally:
        departure.unwatch(task)
