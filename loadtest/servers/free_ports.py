"""Ports for servers that have yet to start, or that start again."""

from __future__ import annotations

import contextlib
import itertools
import socket
from pathlib import Path
from random import Random

from serving.core.command_errors import CommandFailed

GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""First and last of the ports that Linux gives to whoever asks for any."""
FIRST, END = 20_000, 2**16


def free_port() -> int:
    """Return a port on loopback that nothing listens on, another one each time.

    The system gives it to nobody who asks for any port, be it to listen or to connect: until the
    server has started, and while it restarts, it stays free. Raises CommandFailed if none is left.
    """
    for port in itertools.islice(_ports, len(_CHOSEN)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise CommandFailed("no port is free")


def chosen_ports() -> list[int]:
    """Return the ports that the system does not give away; all, where it gives any."""
    try:
        first, last = map(int, GIVEN.read_text().split())
    except OSError:  # another system
        first, last = 49_152, END  # IANA's
    every = range(FIRST, END)
    return [port for port in every if not first <= port <= last] or list(every)


_CHOSEN = chosen_ports()
# Each process begins elsewhere, since others that run beside it go on from where they began.
_ports = itertools.islice(itertools.cycle(_CHOSEN), Random().randrange(len(_CHOSEN)), None)
