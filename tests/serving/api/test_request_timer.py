"""The timer of one request, on an event loop whose clock moves when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from serving.api.request_timer import RequestTimer


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still, and which counts the timers that are set."""

    now_s = 100.0
    num_set = 0

    def time(self) -> float:
        return self.now_s

    def call_at(self, *arguments: Any, **named: Any) -> Any:  # type: ignore[override]
        self.num_set += 1
        return super().call_at(*arguments, **named)

    async def reach(self, now_s: float) -> None:
        """Let it be ``now_s``, and whatever that brings happen."""
        self.now_s = now_s
        for _ in range(4):
            await asyncio.sleep(0)


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def clock(loop: Loop) -> Callable[[], float]:
    """The server's clock, which began at another instant."""
    return lambda: loop.now_s - 90.0


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def waits(timer: RequestTimer, *instants_s: float) -> list[str]:
    """How the waits until these instants have ended, one after the other."""
    ends = []
    for instant_s in instants_s:
        try:
            with timer.by(instant_s):
                await forever()
        except TimeoutError:
            ends.append("over")
        except asyncio.CancelledError:
            ends.append("cancelled")
    return ends


def test_each_wait_ends_at_its_instant(loop: Loop) -> None:
    async def run() -> None:
        timer = RequestTimer(clock(loop))
        waiting = loop.create_task(waits(timer, 20.0, 15.0, 40.0))
        await loop.reach(109.9)
        assert timer._task is waiting
        await loop.reach(110.0)  # 20 by the server's clock; 15 is past by then
        await loop.reach(129.9)
        assert not waiting.done()
        await loop.reach(130.0)
        assert await waiting == ["over"] * 3

    loop.run_until_complete(run())


def test_waits_that_end_in_time_share_a_timer_of_the_loop(loop: Loop) -> None:
    async def run() -> None:
        timer = RequestTimer(clock(loop))
        for instant_s in (20.0, 20.0, 30.0):
            with timer.by(instant_s):
                await asyncio.sleep(0)
        assert loop.num_set == 1
        await loop.reach(115.0)  # it rings while nobody waits
        waiting = loop.create_task(waits(timer, 30.0))
        await loop.reach(119.9)
        assert not waiting.done()
        await loop.reach(120.0)
        assert await waiting == ["over"]

    loop.run_until_complete(run())


def test_a_wait_that_is_due_before_is_not_late(loop: Loop) -> None:
    async def run() -> None:
        timer = RequestTimer(clock(loop))
        with timer.by(30.0):
            await asyncio.sleep(0)
        waiting = loop.create_task(waits(timer, 12.0))
        await loop.reach(102.0)
        assert await waiting == ["over"]

    loop.run_until_complete(run())


def test_one_that_is_due_later_outlasts_the_first_ring(loop: Loop) -> None:
    async def run() -> None:
        timer = RequestTimer(clock(loop))
        with timer.by(12.0):
            await asyncio.sleep(0)
        waiting = loop.create_task(waits(timer, 30.0))
        await loop.reach(102.0)
        await loop.reach(119.9)
        assert not waiting.done()
        await loop.reach(120.0)
        assert await waiting == ["over"]

    loop.run_until_complete(run())


def test_whoever_else_cancels_is_not_the_timer(loop: Loop) -> None:
    async def run() -> None:
        for also_over in (False, True):
            timer = RequestTimer(clock(loop))
            waiting = loop.create_task(waits(timer, clock(loop)() + 5.0))
            await asyncio.sleep(0)
            waiting.cancel()
            if also_over:
                loop.now_s += 5.0
            assert await waiting == ["cancelled"]

    loop.run_until_complete(run())


def test_a_stopped_one_leaves_nothing_behind(loop: Loop) -> None:
    async def run() -> None:
        timer = RequestTimer(clock(loop))
        with timer.by(30.0):
            await asyncio.sleep(0)
        handle = timer._handle
        timer.stop()
        assert handle is not None
        assert handle.cancelled()

    loop.run_until_complete(run())


def test_an_error_comes_through(loop: Loop) -> None:
    async def fails(make: Callable[[], Awaitable[None]]) -> None:
        with RequestTimer(clock(loop)).by(30.0):
            await make()

    async def raising() -> None:
        raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        loop.run_until_complete(fails(raising))
