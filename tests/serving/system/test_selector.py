"""A selector that a busy event loop asks in vain most of the time."""

from __future__ import annotations

import asyncio
import selectors
import socket

from serving.system.selector import LOOK_EVERY_S, FrugalSelector, new_event_loop


def test_a_busy_loop_asks_now_and_then_and_one_that_waits_always() -> None:
    now_s = 100.0
    reader, writer = socket.socketpair()
    with reader, writer, FrugalSelector(lambda: now_s) as selector:
        selector.register(reader, selectors.EVENT_READ)
        assert selector.select(0) == []
        writer.send(b"x")
        assert selector.select(0) == [], "it has just asked"
        assert len(selector.select(60.0)) == 1
        assert len(selector.select(None)) == 1
        assert selector.select(0) == []
        now_s += LOOK_EVERY_S
        assert len(selector.select(0)) == 1


def test_a_loop_that_is_always_busy_still_reads() -> None:
    async def echo() -> bytes:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(1))
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            reading = asyncio.ensure_future(reader.readexactly(1))
            while not reading.done():
                await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()
            return reading.result()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(echo()) == b"x"
