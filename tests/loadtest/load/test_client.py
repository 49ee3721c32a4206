"""The client over real sockets, with a server that does to the byte what a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from loadtest.load import client as module
from loadtest.load.client import Address, Client, Failure, HttpReply, new_event_loop

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LONG_S = 600.0


class World:
    """A server on loopback and a client of it. Requests arrive in ``requests``, as what writes
    their replies."""

    def __init__(self, max_connections: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.requests: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        self.lost: asyncio.Queue[None] = asyncio.Queue()
        self.max_connections = max_connections
        self.serving: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> World:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        address = Address.parse(f"http://localhost:{self.port}")
        self.client = Client(address, self.loop, self.max_connections)
        self.client._target = ("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        self.server.close()
        await asyncio.gather(*filter(None, self.serving))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.requests.put_nowait(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost.put_nowait(None)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def send(self, patience_s: float = LONG_S) -> asyncio.Future[HttpReply]:
        ended: asyncio.Future[HttpReply] = self.loop.create_future()
        self.client.send(REQUEST, self.loop.time() + patience_s, ended.set_result)
        return ended

    async def ask(self, *reply: bytes) -> HttpReply:
        """One request, and what the server writes to it."""
        ended = self.send()
        writer = await self.requests.get()
        for part in reply:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        return await ended


def run(test: Callable[[World], Awaitable[None]], max_connections: int = 10) -> None:
    async def main() -> None:
        async with World(max_connections) as world:
            await test(world)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


def test_one_connection_does_for_requests_that_do_not_overlap():
    async def test(world: World) -> None:
        for _ in range(3):
            reply = await world.ask(OK)
            assert (reply.status, reply.body, reply.failure) == (200, b"ok", None)
            assert reply.sent_s <= reply.finished_s
        assert world.client.peak_connections == 1

    run(test)


def test_replies_come_in_pieces_and_chunks():
    async def test(world: World) -> None:
        head = b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n"
        reply = await world.ask(head[:20], head[20:], b"3\r\nabc\r\n", b"1\r\nd\r\n0\r\n\r\n")
        assert (reply.status, reply.body) == (503, b"abcd")
        assert (await world.ask(OK)).body == b"ok"

    run(test)


def test_what_announces_a_reply_is_none():
    async def test(world: World) -> None:
        reply = await world.ask(b"HTTP/1.1 103 Early Hints\r\n\r\n", OK)
        assert (reply.status, reply.body) == (200, b"ok")

    run(test)


def test_it_sends_however_many_are_open():
    async def test(world: World) -> None:
        ended = [world.send() for _ in range(5)]
        writers = [await world.requests.get() for _ in range(5)]  # all are there, none is answered
        assert world.client.peak_connections == 5
        for writer in writers:
            writer.write(OK)
        assert [reply.status for reply in await asyncio.gather(*ended)] == [200] * 5

    run(test)


def test_beyond_the_bound_a_request_is_not_sent_and_says_so():
    async def test(world: World) -> None:
        first = world.send()
        reply = await world.send()
        assert (reply.failure, reply.reason) == (Failure.UNSENT, "all-connections-in-use")
        (await world.requests.get()).write(OK)
        assert (await first).status == 200
        assert (await world.ask(OK)).status == 200

    run(test, max_connections=1)


def test_who_does_not_answer_is_given_up_and_hung_up_on():
    async def test(world: World) -> None:
        reply = await world.send(patience_s=0.02)
        assert (reply.failure, reply.status) == (Failure.TIMEOUT, 0)
        await world.lost.get()  # the server sees that the client has gone

    run(test)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "closed"),
        (b"SSH-2.0-OpenSSH\r\n", "not-http"),
    ],
)
def test_what_is_not_a_reply_is_a_connection_error(written, reason):
    async def test(world: World) -> None:
        ended = world.send()
        writer = await world.requests.get()
        writer.write(written)
        writer.close()
        reply = await ended
        assert (reply.failure, reply.reason) == (Failure.CONNECTION, reason)
        assert (await world.ask(OK)).status == 200  # on another connection

    run(test)


def test_nobody_listens():
    async def test(world: World) -> None:
        world.server.close()
        await world.server.wait_closed()
        reply = await world.send()
        assert (reply.failure, reply.reason) == (Failure.CONNECTION, "connection-refused")

    run(test)


def test_endless_replies_are_cut(monkeypatch):
    monkeypatch.setattr(module, "MAX_REPLY_BYTES", 10)

    async def test(world: World) -> None:
        reply = await world.ask(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + b"x" * 11)
        assert (reply.failure, reply.reason) == (Failure.CONNECTION, "reply-too-large")

    run(test)


def test_a_server_that_closes_gets_another_connection():
    async def test(world: World) -> None:
        closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert (await world.ask(closing)).body == b"ok"
        await world.lost.get()
        assert (await world.ask(OK)).body == b"ok"

    run(test)


def test_connections_that_may_be_about_to_close_are_not_used(monkeypatch):
    monkeypatch.setattr(module, "MAX_IDLE_S", -1.0)

    async def test(world: World) -> None:
        await world.ask(OK)
        await world.ask(OK)
        await world.lost.get()  # the first one

    run(test)


def test_what_nobody_asked_for_ends_a_connection():
    async def test(world: World) -> None:
        await world.ask(OK + OK)
        assert (await world.ask(OK)).body == b"ok"

    run(test)


def test_leaving_fails_what_is_open():
    async def test(world: World) -> None:
        ended = world.send()
        await world.requests.get()
        await world.client.close()
        assert (await ended).failure is Failure.CONNECTION

    run(test)


def test_a_host_is_looked_up_once():
    async def test(world: World) -> None:
        await world.client.resolve()
        assert world.client._target[1] == world.port

    run(test)


@pytest.mark.parametrize(
    ("url", "authority", "prefix"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", ""),
        ("http://example.com", "example.com:80", ""),
        ("https://example.com/a/b/", "example.com:443", "/a/b"),
        ("http://[::1]:81", "[::1]:81", ""),
    ],
)
def test_addresses(url, authority, prefix):
    address = Address.parse(url)
    assert (address.authority, address.prefix) == (authority, prefix)
    assert address.encrypted == url.startswith("https")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:port"])
def test_what_is_no_address(url):
    with pytest.raises(ValueError, match=r"http://|port|Port"):
        Address.parse(url)
