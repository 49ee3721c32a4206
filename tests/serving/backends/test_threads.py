"""A thread that nobody needs to wait for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serving.backends.threads import in_daemon_thread

pytestmark = pytest.mark.anyio


async def test_what_it_returns_or_raises_is_passed_on() -> None:
    assert await in_daemon_thread(lambda: threading.current_thread().daemon)
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(lambda: 1 / 0)


def test_neither_the_loop_nor_whoever_is_cancelled_waits_for_it() -> None:
    begun, free = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())
        begun.set()
        free.wait()

    async def scenario() -> None:
        waiting = asyncio.create_task(in_daemon_thread(work))
        while not begun.is_set():
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(scenario())  # comes back while it is at work
    free.set()
    threads[0].join()
