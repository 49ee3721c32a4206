"""Bounds of connections, over real sockets: what breaks one is told so, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from serving import http_protocol
from serving.api.connection import DEPARTURE, while_connected
from serving.core.errors import RequestCancelled
from serving.http_protocol import (
    MAX_PIPELINED,
    MIN_CHUNK_BYTES,
    NUM_FREE_CHUNKS,
    BoundedProtocol,
    ConnectionLimits,
    Connections,
)
from serving.observability.metrics import CONNECTION_REFUSALS, UNREAD

pytestmark = pytest.mark.anyio

LIMITS = ConnectionLimits(
    max_connections=50,
    max_per_address=50,
    max_head_bytes=1000,
    max_head_lines=20,
    head_timeout_s=600.0,
    unread_timeout_s=600.0,
)
HASTY = replace(LIMITS, head_timeout_s=0.05)
GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> str:
        """Which problem it is, and that it is one in every respect."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["x-content-type-options"] == "nosniff"
        assert self.headers["connection"] == "close"
        told = json.loads(self.body)
        assert told["status"] == self.status
        assert told["request_id"] == self.headers["x-request-id"]
        return str(told["type"]).rpartition(":")[2]


@dataclass
class Client:
    """One connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self) -> Reply:
        """The next reply."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.rstrip().split("\r\n")
        headers = dict(re.split(r":\s*", line, maxsplit=1) for line in lines)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return Reply(int(status.split()[1]), headers, body)

    async def ask(self, data: bytes) -> Reply:
        self.send(data)
        return await self.reply()

    async def closed(self) -> bool:
        """Whether the server hangs up without another word."""
        with contextlib.suppress(ConnectionResetError):
            return await self.reader.read() == b""
        return True


@dataclass
class Served:
    """A server of an application that tells what it was asked, or as its path says."""

    connections: Connections
    port: int = 0
    seen: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    clients: list[Client] = field(default_factory=list)

    async def connect(self, address: str = "127.0.0.1") -> Client:
        client = Client(
            *await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))
        )
        self.clients.append(client)
        return client

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope["path"])
        body, trailing = b"", {"more_body": scope["path"] != "/unread"}
        while trailing["more_body"]:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            body += message["body"]
            trailing = message  # type: ignore[assignment]
        if scope["path"] == "/wait":
            try:
                await while_connected(scope["state"][DEPARTURE], self.go_on.wait())
            except RequestCancelled:
                self.left.set()
                return
        told = {
            "path": scope["path"],
            "body": body.decode("latin-1"),
            "headers": [name.decode("latin-1") for name, _ in scope["headers"]],
        }
        reply = bytes(2**20) if scope["path"] == "/large" else json.dumps(told).encode()
        length = [(b"content-length", str(len(reply)).encode())]
        status = 400 if scope["path"] == "/unread" else 200
        await send({"type": "http.response.start", "status": status, "headers": length})
        await send({"type": "http.response.body", "body": reply})


@contextlib.asynccontextmanager
async def serving(limits: ConnectionLimits = LIMITS) -> AsyncIterator[Served]:
    refused: list[str] = []
    served = Served(Connections(limits, refused.append), refused=refused)
    config = Config(
        served.app,
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: BoundedProtocol(served.connections, config, state, {}), "127.0.0.1", 0
    )
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        served.go_on.set()
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        for client in served.clients:
            client.writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await client.writer.wait_closed()
        await until(lambda: not state.connections)
        assert set(served.refused) <= set(CONNECTION_REFUSALS)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def head(*lines: bytes, path: bytes = b"", method: bytes = b"GET") -> bytes:
    return b"\r\n".join((b"%b /%b HTTP/1.1" % (method, path), b"Host: x", *lines, b"", b""))


def post(body: bytes, *lines: bytes, path: bytes = b"") -> bytes:
    return head(*lines, b"Content-Length: %d" % len(body), path=path, method=b"POST") + body


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


CHUNKED_HEAD = head(b"Transfer-Encoding: chunked", method=b"POST")


class TestHeads:
    async def test_of_the_most_bytes(self) -> None:
        padding = b"a" * (LIMITS.max_head_bytes - len(head(b"X: ")))
        async with serving() as served:
            client = await served.connect()
            for _ in range(2):  # each request has that much
                assert (await client.ask(head(b"X: " + padding))).status == 200
            assert (await client.ask(head(b"X: a" + padding))).problem == "head-too-large"
            assert await client.closed()
            assert served.refused == ["head-too-large"]

    async def test_that_never_ends_is_not_kept(self) -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(b"GET / HTTP/1.1\r\nX: ")
            client.send(b"a" * 10 * LIMITS.max_head_bytes)
            assert (await client.reply()).status == 431

    @pytest.mark.parametrize(
        "flood", [b"\r\n", b"GET /" + b"a" * 2000, b"GET / HTTP/1.1\r\nX" * 99]
    )
    async def test_of_other_kinds(self, flood: bytes) -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(flood * (1 + 5 * LIMITS.max_head_bytes // len(flood)))
            assert (await client.reply()).status in (400, 431)
            assert await client.closed()

    async def test_lines(self) -> None:
        async with serving() as served:
            client = await served.connect()
            lines = [b"A: b"] * (LIMITS.max_head_lines - 1)  # and Host
            assert (await client.ask(head(*lines))).status == 200
            assert (await client.ask(head(*lines, b"A: b"))).problem == "head-too-large"

    async def test_byte_by_byte(self) -> None:
        async with serving() as served:
            client = await served.connect()
            for byte in post(b"body"):
                client.send(bytes([byte]))
                await client.writer.drain()
                await asyncio.sleep(0)
            assert json.loads((await client.reply()).body)["body"] == "body"

    async def test_a_client_that_asks_for_nothing_is_left(self) -> None:
        async with serving(HASTY) as served:
            client = await served.connect()
            assert await client.closed()
            assert served.refused == []

    @pytest.mark.parametrize("first", [b"", GET % b"first"])
    async def test_that_stay_unfinished(self, first: bytes) -> None:
        async with serving(HASTY) as served:
            client = await served.connect()
            client.send(first + b"GET / HT")
            if first:
                assert (await client.reply()).status == 200
            assert (await client.reply()).problem == "head-timeout"
            assert await client.closed()

    async def test_a_reply_under_way_comes_first(self) -> None:
        async with serving(HASTY) as served:
            client = await served.connect()
            client.send(GET % b"wait" + b"GET /")
            await until(lambda: served.seen == ["/wait"])
            asyncio.get_running_loop().call_later(2 * HASTY.head_timeout_s, served.go_on.set)
            assert (await client.reply()).status == 200
            assert (await client.reply()).problem == "head-timeout"

    async def test_idle_connections_are_kept(self) -> None:
        async with serving(HASTY) as served:
            client = await served.connect()
            assert (await client.ask(GET % b"")).status == 200
            (connection,) = served.connections._by_address["127.0.0.1"]
            assert "late" not in connection._timers


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"nothing like it\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET \xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n",
    b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: Host\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n.",
    *(
        b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host
        for host in (b"a b", b"a/b", b"a@b", b"a:b", b"[a", b"\xe9")
    ),
]


class TestGarbage:
    @pytest.mark.parametrize("garbage", GARBAGE)
    async def test_is_a_problem(self, garbage: bytes) -> None:
        async with serving() as served:
            client = await served.connect()
            assert (await client.ask(garbage)).problem == "invalid-request"
            assert await client.closed()
            assert served.seen == []
            assert served.refused == ["invalid-request"]

    @pytest.mark.parametrize("garbage", GARBAGE)
    async def test_does_not_cost_the_reply_to_what_came_before(self, garbage: bytes) -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(GET % b"wait" + garbage)
            await until(lambda: served.seen == ["/wait"])
            client.send(b"more of the same")
            served.go_on.set()
            assert json.loads((await client.reply()).body)["path"] == "/wait"
            assert (await client.reply()).problem == "invalid-request"

    @pytest.mark.parametrize("version", [b"0.9", b"1.2", b"2.0", b"3.0", b"9.9"])
    async def test_of_another_version(self, version: bytes) -> None:
        async with serving() as served:
            client = await served.connect()
            reply = await client.ask(b"GET / HTTP/%b\r\nHost: x\r\n\r\n" % version)
            assert (reply.status, reply.problem) == (505, "unserved-version")
            assert await client.closed()
            assert served.seen == []
            assert served.refused == ["unserved-version"]

    async def test_what_is_none(self) -> None:
        """A host may be named by nothing, and HTTP/1.0 knows none."""
        async with serving() as served:
            client = await served.connect()
            for host in (b"", b":80", b"a.example", b"a.example:8000", b"[::1]", b"[::1]:8000"):
                assert (
                    await client.ask(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
                ).status == 200
            assert (await client.ask(b"GET / HTTP/1.0\r\n\r\n")).status == 200

    async def test_in_a_body(self) -> None:
        """The application is not given what came of it for the whole."""
        async with serving() as served:
            client = await served.connect()
            client.send(CHUNKED_HEAD + chunked(b"good") + b"no size\r\n")
            assert (await client.reply()).problem == "invalid-request"
            await served.left.wait()

    async def test_in_the_body_of_one_that_waits(self) -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(GET % b"wait" + CHUNKED_HEAD + b"no size\r\n")
            await until(lambda: served.seen == ["/wait"])
            served.go_on.set()
            assert (await client.reply()).status == 200
            assert (await client.reply()).problem == "invalid-request"
            assert served.seen == ["/wait"]

    async def test_in_a_body_whose_reply_was_sent_gets_no_second_one(self) -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(head(b"Transfer-Encoding: chunked", path=b"unread", method=b"POST"))
            assert (await client.reply()).status == 400
            client.send(b"no size\r\n")
            assert await client.closed()


class TestUpgrades:
    @pytest.mark.parametrize(
        "lines",
        [
            (
                b"Connection: Upgrade, HTTP2-Settings",
                b"Upgrade: h2c",
                b"HTTP2-Settings: AAMAAABkAAQ",
            ),
            (b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: a"),
        ],
    )
    @pytest.mark.parametrize("apart", [False, True])
    async def test_are_not_made(self, lines: tuple[bytes, ...], apart: bool) -> None:
        """The request is served as any other, as RFC 9110 allows, and so are those after it."""
        body = bytes(range(256)) * 300
        async with serving() as served:
            client = await served.connect()
            for number in range(2):
                message = post(body, *lines, b"X-Other: kept")
                client.send(message[: -len(body)])
                if apart:
                    await until(lambda n=number: len(served.seen) > n)  # type: ignore[misc]
                client.send(body)
                told = json.loads((await client.reply()).body)
                assert told["body"] == body.decode("latin-1")
                assert "x-other" in told["headers"]
                assert "upgrade" not in told["headers"]

    async def test_close_where_asked_to(self) -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(head(b"Connection: close, Upgrade", b"Upgrade: h2c"))
            assert (await client.reply()).headers["connection"] == "close"
            assert await client.closed()


class TestPipelines:
    async def test_are_answered_in_order(self) -> None:
        paths = [b"%d" % number for number in range(MAX_PIPELINED)]
        async with serving() as served:
            client = await served.connect()
            client.send(b"".join(GET % path for path in paths))
            replies = [await client.reply() for _ in paths]
        assert [json.loads(r.body)["path"] for r in replies] == [f"/{p.decode()}" for p in paths]

    async def test_of_any_length_are_answered_if_they_come_in_pieces(self) -> None:
        """What exceeds the bound of a head is read when the rest has been answered."""
        paths = [b"%d" % number for number in range(20 * MAX_PIPELINED)]
        padding = b"X: " + b"a" * (LIMITS.max_head_bytes // 2)
        async with serving() as served:
            client = await served.connect()
            client.send(b"".join(head(padding, path=path) for path in paths))
            replies = [await client.reply() for _ in paths]
        assert [json.loads(r.body)["path"] for r in replies] == [f"/{p.decode()}" for p in paths]

    async def test_that_are_too_many_at_once(self) -> None:
        """The first of them are answered."""
        async with serving(replace(LIMITS, max_head_bytes=2**14)) as served:
            client = await served.connect()
            client.send((GET % b"wait") * (2 + MAX_PIPELINED))
            await until(lambda: bool(served.seen))
            served.go_on.set()
            for _ in range(1 + MAX_PIPELINED):
                assert (await client.reply()).status == 200
            assert (await client.reply()).problem == "invalid-request"
            assert await client.closed()

    async def test_of_a_client_that_leaves(self) -> None:
        async with serving() as served:
            client = await served.connect()
            client.send((GET % b"wait") * 3)
            await until(lambda: served.seen == ["/wait"])
            client.writer.transport.abort()
            await served.left.wait()

    async def test_of_a_client_that_does_not_read(self) -> None:
        async with serving(replace(LIMITS, unread_timeout_s=0.1)) as served:
            client = await served.connect()
            client.writer.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, 4096
            )
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            client.send((GET % b"large") * MAX_PIPELINED)
            await until(lambda: served.refused == [UNREAD])
            assert len(served.seen) < MAX_PIPELINED

    async def test_of_a_client_that_does_not_read_the_last(self) -> None:
        """Neither is one waited for that asked for the connection to be closed."""
        async with serving(replace(LIMITS, unread_timeout_s=0.1)) as served:
            client = await served.connect()
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(8):
                client.send(GET % b"large")
            client.send(head(b"Connection: close"))
            await until(lambda: not served.connections._num_connections)


class TestBodies:
    async def test_in_pieces_of_ordinary_size(self) -> None:
        chunks = [bytes(2 * MIN_CHUNK_BYTES)] * (2 * NUM_FREE_CHUNKS)
        async with serving() as served:
            client = await served.connect()
            reply = await client.ask(CHUNKED_HEAD + chunked(*chunks, b""))
            assert len(json.loads(reply.body)["body"]) == sum(map(len, chunks))

    async def test_in_tiny_pieces(self) -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(CHUNKED_HEAD + chunked(*[b"a"] * (2 * NUM_FREE_CHUNKS)))
            assert (await client.reply()).problem == "invalid-request"
            await served.left.wait()

    async def test_few_tiny_pieces(self) -> None:
        async with serving() as served:
            client = await served.connect()
            reply = await client.ask(CHUNKED_HEAD + chunked(*[b"a"] * NUM_FREE_CHUNKS, b""))
            assert reply.status == 200

    @pytest.mark.parametrize("around", [b"1;" + b"x" * 600_000, b"0\r\nX: " + b"x" * 600_000])
    async def test_with_much_around_them(self, around: bytes) -> None:
        """Extensions of a chunk, and trailers."""
        async with serving() as served:
            client = await served.connect()
            client.send(CHUNKED_HEAD)
            await until(lambda: bool(served.seen))
            client.send(around)
            assert (await client.reply()).problem == "head-too-large"

    async def test_what_belongs_to_the_one_before_is_not_around_them(self) -> None:
        head = b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        async with serving() as served:
            client = await served.connect()
            before = 5 * LIMITS.max_head_bytes
            client.send(head % (1, before) + bytes(before) + head % (2, 20) + bytes(10))
            assert (await client.reply()).status == 200
            assert (await client.ask(bytes(10))).status == 200
            assert served.seen == ["/1", "/2"]

    async def test_trailers_are_no_headers(self) -> None:
        async with serving() as served:
            client = await served.connect()
            client.send(CHUNKED_HEAD + b"1\r\na\r\n0\r\nX-Deadline-Ms: 1\r\n\r\n")
            assert "x-deadline-ms" not in json.loads((await client.reply()).body)["headers"]
            assert json.loads((await client.ask(GET % b"")).body)["headers"] == ["host"]

    async def test_that_nobody_wants_must_end(self) -> None:
        async with serving(HASTY) as served:
            client = await served.connect()
            client.send(post(bytes(100), path=b"unread")[:-50])
            assert (await client.reply()).status == 400
            assert await client.closed()

    async def test_that_nobody_wants_are_skipped(self) -> None:
        async with serving() as served:
            client = await served.connect()
            for _ in range(3):
                assert (await client.ask(post(bytes(200_000), path=b"unread"))).status == 400
            assert (await client.ask(GET % b"")).status == 200

    @pytest.mark.parametrize("num_bytes", [200_000, 900_000, 8_000_000])
    async def test_a_refusal_before_they_are_read_arrives(self, num_bytes: int) -> None:
        """Whoever writes all of it before reading sees neither an error nor a reset."""
        message = post(bytes(num_bytes), b"Connection: close", path=b"unread")
        async with serving() as served:
            for _ in range(20):
                assert await asyncio.to_thread(_send_all_and_read, served.port, message) == 400

    @pytest.mark.parametrize("num_bytes", [10, 1_000_000])
    async def test_of_a_client_that_leaves_when_they_are_read(self, num_bytes: int) -> None:
        """Reading is paused while a long one is taken, and who does not read sees nobody leave."""
        async with serving() as served:
            client = await served.connect()
            client.send(post(bytes(num_bytes), path=b"wait"))
            await client.writer.drain()
            await until(lambda: served.seen == ["/wait"])
            client.writer.close()
            await served.left.wait()

    async def test_are_not_dropped_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_protocol, "LINGER_BYTES", 100_000)
        async with serving() as served:
            client = await served.connect()
            client.send(post(bytes(50_000_000), b"Connection: close", path=b"unread"))
            assert (await client.reply()).status == 400
            await until(lambda: not served.connections._num_connections)


def _send_all_and_read(port: int, message: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(message)
        reply = b""
        while part := connection.recv(65536):
            reply += part
    return int(reply.split()[1])


class TestConnections:
    async def test_of_one_address(self) -> None:
        """Who has too many loses the one that has been idle longest; nobody else loses any."""
        async with serving(replace(LIMITS, max_per_address=3)) as served:
            other = await served.connect("127.0.0.2")
            first, second, third = [await served.connect("127.0.0.3") for _ in range(3)]
            second.send(b"GET / HT")
            for each in (other, first, third):
                assert (await each.ask(GET % b"")).status == 200
            fourth = await served.connect("127.0.0.3")
            assert await second.closed()
            for each in (other, first, third, fourth):
                assert (await each.ask(GET % b"")).status == 200

    async def test_of_all(self) -> None:
        async with serving(replace(LIMITS, max_connections=3)) as served:
            unfinished = []
            for number in range(10):
                each = await served.connect(f"127.0.1.{number + 1}")
                each.send(b"GET / HT")
                unfinished.append(each)
            client = await served.connect()
            assert (await client.ask(GET % b"")).status == 200
            for each in unfinished[:8]:
                assert await each.closed()

    async def test_that_are_all_in_use(self) -> None:
        async with serving(replace(LIMITS, max_per_address=2)) as served:
            for number in range(2):
                (await served.connect()).send(GET % b"wait")
                await until(lambda n=number: len(served.seen) == n + 1)  # type: ignore[misc]
            refused = await served.connect()
            reply = await refused.ask(GET % b"")
            assert reply.problem == "overloaded"
            assert reply.headers["retry-after"] == "1"
            assert await refused.closed()
            other = await served.connect("127.0.0.2")
            assert (await other.ask(GET % b"")).status == 200

    async def test_that_are_refused_have_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_protocol, "MAX_REFUSED_CONNECTIONS", 1)
        async with serving(replace(LIMITS, max_connections=1)) as served:
            (await served.connect()).send(GET % b"wait")
            await until(lambda: len(served.seen) == 1)
            assert (await (await served.connect()).reply()).problem == "overloaded"
            assert await (await served.connect()).closed()

    async def test_of_a_proxy_are_for_many(self) -> None:
        limits = replace(LIMITS, max_per_address=1, proxies=(ip_network("127.0.0.0/28"),))
        async with serving(limits) as served:
            clients = [await served.connect("127.0.0.5") for _ in range(3)]
            for client in clients:
                assert (await client.ask(GET % b"")).status == 200

    async def test_leave_nothing_behind(self) -> None:
        async with serving() as served:
            for _ in range(5):
                client = await served.connect()
                assert (await client.ask(GET % b"")).status == 200
                client.writer.close()
            await until(lambda: not served.connections._num_connections)
            assert not served.connections._by_address


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
async def test_who_is_one_client(peer: str, address: str) -> None:
    connection: Any = type("Connection", (), {})()
    assert Connections(LIMITS).enter(connection, peer)
    assert connection.address == address
