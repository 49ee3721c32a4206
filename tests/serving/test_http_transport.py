"""The socket of a connection: what is written in one turn of the event loop is one system call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from serving.http_transport import ReplyTransport


class FakeSocket(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.log.append(bytes(data).decode())

    def is_closing(self) -> bool:
        return "abort" in self.log

    def abort(self) -> None:
        self.log.append("abort")


class Turns:
    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def turn(self) -> None:
        while self.calls:
            self.calls.pop(0)()


class Bench:
    def __init__(self) -> None:
        self.socket, self.loop = FakeSocket(), Turns()
        self.transport = ReplyTransport(self.loop.calls.append, self.socket, self._hang_up)

    def _hang_up(self) -> None:
        self.socket.log.append("hang up")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_is_written_in_one_turn_is_sent_in_one_piece(bench: Bench) -> None:
    for part in (b"head ", b"body"):
        bench.transport.write(part)
    assert bench.socket.log == []
    bench.loop.turn()
    bench.transport.write(b"event")
    bench.loop.turn()
    assert bench.socket.log == ["head body", "event"]
    assert bench.loop.calls == []


def test_a_reply_that_is_whole_is_not_kept(bench: Bench) -> None:
    bench.transport.write(b"reply")
    bench.transport.flush()
    bench.loop.turn()
    assert bench.socket.log == ["reply"]


def test_it_is_sent_before_the_connection_is_hung_up_on_and_nothing_after_that(
    bench: Bench,
) -> None:
    bench.transport.write(b"reply")
    bench.transport.close()
    bench.transport.close()
    bench.transport.write(b"more")
    bench.loop.turn()
    assert bench.socket.log == ["reply", "hang up"]


def test_of_a_connection_that_is_aborted_nothing_is_sent(bench: Bench) -> None:
    bench.transport.write(b"reply")
    bench.transport.abort()
    bench.loop.turn()
    assert bench.socket.log == ["abort"]
