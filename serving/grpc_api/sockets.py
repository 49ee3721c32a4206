"""The connections of gRPC's port, as the kernel has them: bounded by address, and hung up on.

gRPC bounds connections in all alone, and says whose one is only once a call comes over it. But its
sockets are of this process, which may look at them, and shut one down: to gRPC its client has left.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from serving.access.addresses import Network, parse_address, site_of
from serving.observability.metrics import UNREAD

DESCRIPTORS = "/proc/self/fd"

_TCP_INFO_BYTES = 136
_BYTES_RECEIVED = struct.Struct("=Q")
_BYTES_RECEIVED_AT = 128
"""Where in Linux's ``struct tcp_info`` ``tcpi_bytes_received`` is, since 4.1."""

Peer = tuple[str, int]
"""Address and port of the other end of a connection."""


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Limits of the connections of one port."""

    max_connections: int
    max_per_address: int
    proxies: tuple[Network, ...] = ()
    """Networks of proxies, for which ``max_per_address`` does not hold."""


@dataclass(frozen=True, slots=True)
class _Accepted:
    """One connection of the port."""

    number: int
    """Counted in the order in which they were seen first."""
    descriptor: int
    inode: int
    peer: Peer
    address: str
    is_proxy: bool


class AcceptedSockets:
    """The connections of a port, up to date as of the last ``look``.

    ``has_calls`` says of a peer whether a call of it is inside; ``observe`` is told why a
    connection was ended. Not thread-safe: the event loop owns it.
    """

    def __init__(
        self,
        limits: SocketLimits,
        has_calls: Callable[[Peer], bool],
        observe: Callable[[str], None],
    ) -> None:
        self.port = 0
        """Port that they are connected to."""
        self._limits = limits
        self._has_calls = has_calls
        self._observe = observe
        self._numbers = count()
        self._seen: dict[int, _Accepted | None] = {}  # by inode; None of others' sockets
        self._by_peer: dict[Peer, _Accepted] = {}

    def look(self) -> None:
        """See which connections there are, and end those that are too many.

        They are of the address that has most, and of these the oldest that no call is inside of.
        """
        self._see()
        there = list(self._by_peer.values())
        numbers = Counter(each.address for each in there if not each.is_proxy)
        idle = sorted(
            (each for each in there if not self._has_calls(each.peer)),
            key=lambda each: (-numbers[each.address], each.number),
        )
        num_excess = len(there) - self._limits.max_connections
        for each in idle:
            is_of_too_many = numbers[each.address] > self._limits.max_per_address
            if is_of_too_many or num_excess > 0:
                numbers[each.address] -= 1
                num_excess -= 1
                self._end(each, "overloaded")

    def hang_up(self, peer: Peer) -> None:
        """End the connection of a peer that does not read what it asked for."""
        self._see()
        if (accepted := self._by_peer.get(peer)) is not None:
            self._end(accepted, UNREAD)

    def find(self, peers: Collection[Peer]) -> None:
        """Look again if the connection of one of these has not been seen."""
        if any(peer not in self._by_peer for peer in peers):
            self._see()

    def received(self, peer: Peer) -> int:
        """Return how many bytes have come over a connection; 0 until it has been seen."""
        accepted = self._by_peer.get(peer)
        if accepted is None:
            return 0
        with suppress(OSError), socket.socket(fileno=os.dup(accepted.descriptor)) as own:
            if os.fstat(own.fileno()).st_ino == accepted.inode:
                info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                if len(info) == _TCP_INFO_BYTES:
                    return int(_BYTES_RECEIVED.unpack_from(info, _BYTES_RECEIVED_AT)[0])
        return 0

    def _see(self) -> None:
        seen: dict[int, _Accepted | None] = {}
        for descriptor in _descriptors():
            with suppress(OSError):  # it was closed meanwhile
                status = os.fstat(descriptor)
                if not stat.S_ISSOCK(status.st_mode):
                    continue
                inode = status.st_ino
                known = inode in self._seen
                seen[inode] = self._seen[inode] if known else self._describe(descriptor, inode)
        self._seen = seen
        self._by_peer = {each.peer: each for each in seen.values() if each is not None}

    def _describe(self, descriptor: int, inode: int) -> _Accepted | None:
        """Return the connection that a socket is; None if it is none of this port."""
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as own:
            if own.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            if own.getsockname()[1] != self.port:
                return None
            host, port = own.getpeername()[:2]
            if (address := parse_address(host)) is not None:
                is_proxy = any(address in network for network in self._limits.proxies)
                peer = (str(address), port)
                number = next(self._numbers)
                return _Accepted(number, descriptor, inode, peer, site_of(address), is_proxy)
        return None

    def _end(self, accepted: _Accepted, reason: str) -> None:
        with suppress(OSError), socket.socket(fileno=os.dup(accepted.descriptor)) as own:
            # By now the number may be that of another file.
            if os.fstat(own.fileno()).st_ino == accepted.inode:
                self._observe(reason)
                own.shutdown(socket.SHUT_RDWR)


def _descriptors() -> Iterable[int]:
    """Return the numbers of this process's open files; none where the kernel does not say."""
    with suppress(OSError):
        return [int(name) for name in os.listdir(DESCRIPTORS)]
    return []
