"""Messages about one request, for whoever waits for it."""

from __future__ import annotations

import asyncio

import pytest

from serving.backends.answers import Mailbox
from tests.serving.fakes import FakeClock

pytestmark = pytest.mark.anyio

LONG_S = 300.0


async def test_messages_come_in_their_order_there_or_not() -> None:
    mailbox: Mailbox[int] = Mailbox(3)
    mailbox.put(1)
    assert await mailbox.get() == 1
    waiting = asyncio.ensure_future(mailbox.get())
    await asyncio.sleep(0)
    mailbox.put(2)
    mailbox.put(3)
    assert [await waiting, await mailbox.get()] == [2, 3]


async def test_the_latest_are_kept() -> None:
    mailbox: Mailbox[int] = Mailbox(2)
    for message in (1, 2, 3):
        mailbox.put(message)
    assert [await mailbox.get() for _ in range(2)] == [2, 3]


async def test_none_by_an_instant() -> None:
    clock = FakeClock()
    mailbox: Mailbox[int] = Mailbox(2)
    assert await mailbox.get_by(clock.now - 1.0, clock) is None
    mailbox.put(1)
    assert await mailbox.get_by(clock.now - 1.0, clock) == 1, "it is there"
    waiting = asyncio.ensure_future(mailbox.get_by(clock.now + LONG_S, clock))
    await asyncio.sleep(0)
    mailbox.put(2)
    assert await waiting == 2


async def test_whoever_gives_up_leaves_what_comes_to_the_next() -> None:
    mailbox: Mailbox[int] = Mailbox(2)
    waiting = asyncio.ensure_future(mailbox.get_by(LONG_S, FakeClock()))
    await asyncio.sleep(0)
    waiting.cancel()
    mailbox.put(1)
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert await mailbox.get() == 1
