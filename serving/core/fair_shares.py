"""Fair shares of what there is not enough of: engine time, and places in a bounded queue.

Engine time is shared by start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), with what
runs took in the place of what they were expected to take, as in the virtual token counter (Sheng et
al., OSDI 2024). Each principal has a virtual time,

    virtual time = engine seconds that it has had / its share

and whoever's is least goes first. Who comes back does so with the virtual time of the furthest
behind of those who are there, so that nobody saves up what it did not use; and who was alone owes
nothing to those who come, since they begin where it is.

Places are shared by dynamic thresholds (Choudhury and Hahne, IEEE/ACM Transactions on Networking 6,
1998): nobody has more than some multiple of the places that are free, so that there is always one
for somebody else, and most of them are used.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from serving.core.errors import Overloaded, ShedReason, TooManyRequests
from serving.core.principals import Principal
from serving.core.request import Request

MAX_PRINCIPALS = 1024
"""Number of principals whose virtual times are kept. When there are more, those go first who have
nothing in the engine: at worst some have their debt forgiven."""
MAX_STREAMS = 1024
"""Number of streams of which it is known when they last had engine time. When there are more, those
go first that have had none for longest, and they are next anyway."""
FREE_MULTIPLE = 8
"""Multiple of the free places that one principal may have. Beside seven others like it, there is
still a free one of 65."""


class StreamTurns:
    """The order in which streams last had engine time. One executor owns it.

    Streams of one principal take turns: whichever has had none for longest is next.
    """

    __slots__ = ("_num_runs", "_orders")

    def __init__(self) -> None:
        self._orders: dict[tuple[str, str], int] = {}  # the longest ago first
        self._num_runs = 0

    def ran(self, requests: Sequence[Request]) -> None:
        """Note a run of these requests."""
        self._num_runs += 1
        for request in requests:
            self._orders.pop(request.stream_key, None)
            self._orders[request.stream_key] = self._num_runs
        while len(self._orders) > MAX_STREAMS:
            del self._orders[next(iter(self._orders))]

    def of(self, requests: Sequence[Request]) -> dict[tuple[str, str], int]:
        """Return the orders of these requests' streams; nothing if none is of a stream."""
        if not any(request.stream for request in requests):
            return {}
        return {r.stream_key: self._orders.get(r.stream_key, 0) for r in requests}


class VirtualTimes:
    """The virtual times of one engine's principals, in seconds. One executor owns it."""

    __slots__ = ("_latest_s", "_times_s")

    def __init__(self) -> None:
        self._times_s: dict[str, float] = {}
        self._latest_s = 0.0

    @property
    def is_shared(self) -> bool:
        """Whether more than one principal has come since the engine was last without work."""
        return len(self._times_s) > 1

    def knows_only(self, name: str) -> bool:
        """Return whether there is no principal but this one."""
        return len(self._times_s) == 1 and name in self._times_s

    def joined(self, name: str, active: Collection[str]) -> None:
        """Note that a principal has work for the engine; ``active`` are those who had some before.

        A principal among them keeps its virtual time.
        """
        times_s = self._times_s
        if not active:
            times_s.clear()  # nobody is behind anybody on an engine without work
            times_s[name] = self._latest_s
            return
        if name in active:
            return
        behind_s = min(times_s.get(other, self._latest_s) for other in active)
        times_s[name] = max(times_s.get(name, behind_s), behind_s)
        if len(times_s) > MAX_PRINCIPALS:
            kept = {other: times_s[other] for other in (*active, name) if other in times_s}
            times_s.clear()
            times_s.update(kept)

    def ran(self, requests: Sequence[Request], seconds: float) -> None:
        """Charge a run of ``seconds`` to its requests' principals, each row as much."""
        row_s = seconds / len(requests)
        for request in requests:
            time_s = self._times_s.get(request.principal)
            if time_s is not None:
                time_s += row_s / request.share
                self._times_s[request.principal] = time_s
                self._latest_s = max(self._latest_s, time_s)

    def of(self, names: Collection[str]) -> dict[str, float]:
        """Return the virtual times of these principals."""
        return {name: self._times_s.get(name, self._latest_s) for name in names}


def refusal(
    held_by: Callable[[str], int], name: str, num_taken: int, capacity: int
) -> ShedReason | None:
    """Return why a principal may not take one more place; None if it may.

    ``num_taken`` are taken. By itself it may have ``capacity``. For others there is an eighth more,
    rounded up. ``held_by`` says how many a principal has; it is asked only where that matters.
    """
    num_free = capacity + math.ceil(capacity / FREE_MULTIPLE) - num_taken
    if num_free <= 0:
        return ShedReason.REJECTED_SATURATED
    most = min(capacity, FREE_MULTIPLE * num_free)
    if num_taken < most or (num_held := held_by(name)) < most:
        return None
    alone = num_held == num_taken
    return ShedReason.REJECTED_SATURATED if alone else ShedReason.REJECTED_SHARE


class Places:
    """The places for requests in one server: ``capacity`` of them, as ``refusal`` counts."""

    def __init__(self, capacity: int, things: str = "requests") -> None:
        """Make places for ``things``, which is what refusals call them."""
        self._capacity = capacity
        self._things = things
        self._held: Counter[str] = Counter()
        self._num_taken = 0

    def check(self, principal: Principal) -> None:
        """Raise TooManyRequests for a principal that has as many places as it may have at all.

        Raises Overloaded where none is left for it.
        """
        num_held = self._held[principal.name]
        if principal.max_requests is not None and num_held >= principal.max_requests:
            raise TooManyRequests(
                f"{principal.label} has {num_held} requests here, which is as many as it may have "
                "at once."
            )
        reason = refusal(self._held.__getitem__, principal.name, self._num_taken, self._capacity)
        if reason is not None:
            raise Overloaded(_NO_PLACE[reason].format(self._things), reason)

    def take(self, principal: Principal) -> None:
        """Take a place. Raises TooManyRequests or Overloaded."""
        self.check(principal)
        self._held[principal.name] += 1
        self._num_taken += 1

    def leave(self, principal: Principal) -> None:
        """Give a place back."""
        self._num_taken -= 1
        self._held[principal.name] -= 1
        if not self._held[principal.name]:
            del self._held[principal.name]


_NO_PLACE = {
    ShedReason.REJECTED_SATURATED: "Too many {} are being served.",
    ShedReason.REJECTED_SHARE: "Many {} of this client are being served; the places that are "
    "left are for others.",
}
