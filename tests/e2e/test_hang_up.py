"""A client that leaves is noticed wherever its request is, and counted as what it is."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.e2e.process import Server, eventually, head
from tests.serving.fakes import JPEG

CANCELLED = 'punctual_requests_total{outcome="cancelled"}'
HANGS = "POST /v1/detect?max_depth=1 HTTP/1.1"


def request(body: bytes) -> bytes:
    whole = head(f"Content-Length: {len(JPEG)}", "X-Deadline-Ms: 9000")
    return whole.replace(b"POST /v1/detect HTTP/1.1", HANGS.encode()) + body


def close(connection: socket.socket) -> None:
    connection.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def half_close(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("leave", [close, reset, half_close])
def test_while_the_engine_works(server: Server, leave: object) -> None:
    before = server.metric(CANCELLED)
    connection = server.connect()
    connection.sendall(request(JPEG))
    eventually(lambda: server.metric("punctual_waiting_requests") == 1)
    leave(connection)  # type: ignore[operator]
    eventually(lambda: server.metric("punctual_waiting_requests") == 0)
    eventually(lambda: server.metric(CANCELLED) == before + 1)
    connection.close()


def test_in_the_middle_of_the_body(server: Server) -> None:
    before = server.metric(CANCELLED)
    connection = server.connect()
    connection.sendall(request(JPEG[:100]))
    connection.close()
    eventually(lambda: server.metric(CANCELLED) == before + 1)
