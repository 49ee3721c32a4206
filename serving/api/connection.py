"""Work for a client that ends when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from serving.core.errors import RequestCancelled

T = TypeVar("T")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``, unless the client leaves first.

    Then ``work`` is cancelled, and RequestCancelled raised.
    """
    task = asyncio.current_task()
    assert task is not None, "there is no task to cancel"
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left and task.uncancel() == 0:  # by nobody else
            raise RequestCancelled("The client left.") from None
        raise
    finally:
        watching.cancel()
