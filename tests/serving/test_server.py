"""Listening, before anything else is done."""

from __future__ import annotations

import socket

import pytest

from serving.core.command_errors import CommandFailed
from serving.server import listen


def test_who_connects_before_there_is_a_server_waits() -> None:
    listener, *_ = sockets = listen("127.0.0.1", 0)
    with socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        accepted.close()
    for each in sockets:
        each.close()


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CommandFailed, match=rf"on 127\.0\.0\.1, port {port}: address already"):
            listen("127.0.0.1", port)


def test_an_address_that_is_none() -> None:
    with pytest.raises(CommandFailed, match=r"cannot listen on no\.such\.host\.invalid, port 0: "):
        listen("no.such.host.invalid", 0)
