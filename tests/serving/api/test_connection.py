"""Work for a client, which ends when the client leaves."""

from __future__ import annotations

import asyncio

import pytest

from serving.api.connection import Departure, while_connected
from serving.core.errors import RequestCancelled

pytestmark = pytest.mark.anyio


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def soon() -> int:
    await asyncio.sleep(0)
    return 7


async def test_the_result_is_that_of_the_work() -> None:
    departure = Departure()
    assert await while_connected(departure, soon()) == 7
    departure.leave()
    await asyncio.sleep(0)  # which is nothing to whoever has ended


@pytest.mark.parametrize("is_late", [False, True])
async def test_leaving_ends_all_work_for_the_client_begun_or_not(is_late: bool) -> None:
    departure = Departure()
    if is_late:
        departure.leave()
    working = [
        asyncio.ensure_future(while_connected(departure, each)) for each in (forever(), forever())
    ]
    await asyncio.sleep(0)
    if not is_late:
        departure.leave()
    for each in await asyncio.gather(*working, return_exceptions=True):
        assert isinstance(each, RequestCancelled)


async def test_whoever_else_cancels_is_not_the_client() -> None:
    for also_leaves in (False, True):
        departure = Departure()
        working = asyncio.ensure_future(while_connected(departure, forever()))
        await asyncio.sleep(0)
        working.cancel()
        if also_leaves:
            departure.leave()
        await asyncio.wait([working])
        assert working.cancelled()


async def test_whoever_serves_the_connection_is_told_when_to_look() -> None:
    looked: list[int] = []
    departure = Departure(lambda: looked.append(1))
    await while_connected(departure, soon())
    await while_connected(departure, soon())
    assert len(looked) == 2
