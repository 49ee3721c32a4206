"""Clients of gRPC that a good library would not be: from other addresses, and frame by frame."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator

import grpc.aio

HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"
"""Addresses of who behaves, and of who does not."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
FRAME_BYTES = 2**14
INITIAL_WINDOW_SIZE = 4
DEFAULT_WINDOW = 2**16 - 1


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    """The first frame of a connection; ``window`` is how much may be sent on each stream."""
    window = values.get("window")
    stated = b"" if window is None else struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
    return frame(SETTINGS, payload=stated)


def head(stream: int, method: str) -> bytes:
    """The frame that a call of the service begins with; its fields are literals (RFC 7541)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/inference.GRPCInferenceService/{method}",
        ":authority": "x",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(
        b"\0%c%b%c%b" % (len(name), name.encode(), len(value), value.encode())
        for name, value in fields.items()
    )
    return frame(HEADERS, END_HEADERS, stream, block)


def prefixed(data: bytes) -> bytes:
    """A message as it goes over the wire."""
    return struct.pack(">BI", 0, len(data)) + data


def message(stream: int, data: bytes, *, length: int | None = None) -> bytes:
    """A frame with a message, or with the beginning of one of ``length`` bytes."""
    prefix = struct.pack(">BI", 0, len(data) if length is None else length)
    flags = END_STREAM if length is None else 0
    return frame(DATA, flags, stream, prefix + data)


class RawCaller:
    """A connection on which frames are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._window = DEFAULT_WINDOW
        self._more: Counter[int] = Counter()  # by stream; that of the connection is 0
        self._num_sent: Counter[int] = Counter()

    async def send(self, *frames: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self._writer.write(b"".join(frames))
            await self._writer.drain()

    async def frames(self) -> AsyncIterator[int]:
        """The kinds of the frames that come, until the server hangs up."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                start = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(start[:3]))
                self._note(start[3], start[4], int.from_bytes(start[5:]), payload)
                yield start[3]

    def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._more[stream] += int.from_bytes(payload)
        elif kind == SETTINGS and not flags & ACK:
            self._writer.write(frame(SETTINGS, ACK))
            stated = dict(struct.iter_unpack(">HI", payload))
            self._window = stated.get(INITIAL_WINDOW_SIZE, self._window)

    def allowed(self, stream: int) -> int:
        """How many bytes the server has said that it would take on a stream, in all."""
        return self._window + self._more[stream]

    async def pour(self, stream: int, data: bytes) -> None:
        """Send a part of a message, as fast as the server allows."""
        frames = self.frames()
        while data:
            room = min(
                self.allowed(stream) - self._num_sent[stream],
                DEFAULT_WINDOW + self._more[0] - self._num_sent[0],
                FRAME_BYTES,
            )
            if room <= 0:
                await anext(frames)
                continue
            await self.send(frame(DATA, 0, stream, data[:room]))
            self._num_sent[stream] += len(data[:room])
            self._num_sent[0] += len(data[:room])
            data = data[room:]

    async def ended(self) -> list[int]:
        """Wait until the server has hung up; the kinds of all frames that came before."""
        return [kind async for kind in self.frames()]


@contextlib.asynccontextmanager
async def raw_caller(port: int, *, window: int | None = None) -> AsyncIterator[RawCaller]:
    """A connection from elsewhere."""
    reader, writer = await asyncio.open_connection(HERE, port, local_addr=(ELSEWHERE, 0))
    caller = RawCaller(reader, writer)
    await caller.send(PREFACE, settings() if window is None else settings(window=window))
    try:
        yield caller
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def channel_from_elsewhere(
    port: int, stalls_after: int | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel whose connections come from elsewhere: gRPC has no option for that.

    With ``stalls_after``, each sends so many bytes and no more, and stays open.
    """

    opened = contextlib.ExitStack()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(HERE, port, local_addr=(ELSEWHERE, 0))
        opened.callback(back.close)
        opened.callback(writer.close)
        await asyncio.gather(_pass_on(reader, back, stalls_after), _pass_on(there, writer))

    forwarder = await asyncio.start_server(forward, HERE, 0, family=socket.AF_INET)
    address = "{}:{}".format(*forwarder.sockets[0].getsockname())
    with opened:
        async with grpc.aio.insecure_channel(address) as channel:
            yield channel
    forwarder.close()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stalls_after: int | None = None
) -> None:
    left = sys.maxsize if stalls_after is None else stalls_after
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(min(left, 2**16)):
            writer.write(data)
            await writer.drain()
            left -= len(data)
            if not left:
                return
    writer.close()
