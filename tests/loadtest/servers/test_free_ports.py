"""Ports that stay free until the server that they are for has started."""

from __future__ import annotations

import socket

from loadtest.servers.free_ports import GIVEN, chosen_ports, free_port


def test_nobody_else_is_given_one() -> None:
    chosen = set(chosen_ports())
    first, last = map(int, GIVEN.read_text().split())
    assert chosen.isdisjoint(range(first, last + 1))
    found = [free_port() for _ in range(50)]
    assert len(set(found)) == len(found)
    assert chosen.issuperset(found)


def test_one_that_is_taken_is_passed_over() -> None:
    chosen = chosen_ports()
    after = chosen[(chosen.index(free_port()) + 1) % len(chosen)]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", after))
        assert free_port() != after
