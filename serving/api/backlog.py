"""Backlog of requests that were admitted and have not left yet, and how fast they leave.

In overload most images could only be decoded to be refused, and decoding them takes the time from
those that are served. So each arrival is compared with the requests that are inside and due before
it, and with how fast answers have lately come out, or could have, had they been no deeper than they
must: that has in it whatever slows this server down, wherever its engine runs.

Who still waits for something else than everybody waits for, as for the decoding of an image that is
dear, is inside and not yet ahead of anybody.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from serving.core.ports import Clock
from serving.core.principals import NOBODY, Principal

WINDOW = 32
"""Number of latest answers that the pace is taken from.

They are a quarter of a second of a busy small server.
"""
MIN_ANSWERS = 8
"""Fewest answers from which a pace is taken; with fewer nothing is known."""


class _Queue:
    """The requests of one principal that are awaited, by deadline, or by turn if they are frames.

    Of its streams that is first which was answered longest ago, whatever the deadlines are.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._deadlines_s: list[float] = []  # of all, in order
        self._singles_s: list[float] = []  # of those of no stream, in order
        self._turns: list[int] = []  # of frames, in order

    def __bool__(self) -> bool:
        return bool(self._deadlines_s)

    def add(self, deadline_s: float, turn: int | None) -> None:
        """Put in a request."""
        insort(self._deadlines_s, deadline_s)
        if turn is None:
            insort(self._singles_s, deadline_s)
        else:
            insort(self._turns, turn)

    def remove(self, deadline_s: float, turn: int | None) -> None:
        """Take out a request."""
        del self._deadlines_s[bisect_left(self._deadlines_s, deadline_s)]
        if turn is None:
            del self._singles_s[bisect_left(self._singles_s, deadline_s)]
        else:
            del self._turns[bisect_left(self._turns, turn)]

    def num_before(self, deadline_s: float, turn: int | None = None) -> int:
        """Return how many go before a request of that deadline, and of that turn if it is a frame.

        Of the own principal, that is; of others, those that are due before.
        """
        if turn is None:
            return bisect_left(self._deadlines_s, deadline_s)
        return bisect_left(self._singles_s, deadline_s) + bisect_left(self._turns, turn)


class Place:
    """One request's place in a backlog."""

    def __init__(
        self, backlog: Backlog, deadline_s: float, principal: Principal, turn: int | None
    ) -> None:
        self._backlog = backlog
        self._principal = principal
        self._deadline_s = deadline_s
        self._turn = turn
        self._number = backlog.num_joined
        self._was_first = backlog.num_inside == 0
        self._is_awaited = False
        self._is_done = False

    @property
    def was_alone(self) -> bool:
        """Whether nobody else has been inside since it joined."""
        return self._was_first and self._backlog.num_joined == self._number

    def queue(self) -> None:
        """Be ahead of whoever is due later, from now on if not before."""
        if not self._is_awaited and not self._is_done:
            self._is_awaited = True
            self._backlog.add(self._deadline_s, self._principal, self._turn)

    def answered(self, share: float) -> None:
        """Note an answer, from the first of which on the request stands in nobody's way.

        ``share`` of the time that it took would have done for one that must not keep others
        waiting. Nobody waits for those that follow.
        """
        if self._is_awaited:
            self._backlog.answered(share)
            self.leave()

    def leave(self) -> None:
        """Stand in nobody's way any longer."""
        self._is_done = True
        if self._is_awaited:
            self._is_awaited = False
            self._backlog.remove(self._deadline_s, self._principal, self._turn)


class Backlog:
    """One server's backlog of admitted requests. Not thread-safe: the event loop owns it."""

    def __init__(self, clock: Clock) -> None:
        self.num_joined = 0
        """Number of requests that have ever been inside."""
        self.num_inside = 0
        """Number of requests that are inside."""
        self._clock = clock
        # Of those inside that have no answer, in order, by principal.
        self._queues: dict[str, _Queue] = {}
        self._gaps_s: deque[float] = deque(maxlen=WINDOW)
        self._sum_s = 0.0
        self._busy_since_s: float | None = None

    @contextmanager
    def joined(
        self,
        deadline_s: float,
        principal: Principal = NOBODY,
        turn: int | None = None,
        *,
        is_queued: bool = True,
    ) -> Iterator[Place]:
        """Count a request as inside for as long as the context lasts.

        Until its place is told of an answer, it is ahead of whoever is due later: at once, or else
        from when its place is told to queue. ``turn`` is that of a frame; see ``Frame.turn``.
        """
        self.num_joined += 1
        place = Place(self, deadline_s, principal, turn)
        self.num_inside += 1
        if is_queued:
            place.queue()
        try:
            yield place
        finally:
            self.num_inside -= 1
            place.leave()

    def add(self, deadline_s: float, principal: Principal, turn: int | None) -> None:
        """Put in a request with that deadline, which is awaited from now on."""
        queue = self._queues.get(principal.name)
        if queue is None:
            queue = self._queues[principal.name] = _Queue(principal.share)
        queue.add(deadline_s, turn)

    def remove(self, deadline_s: float, principal: Principal, turn: int | None) -> None:
        """Take out a request with that deadline, which is awaited no longer."""
        queue = self._queues[principal.name]
        queue.remove(deadline_s, turn)
        if not queue:
            del self._queues[principal.name]
        if not self._queues:
            self._busy_since_s = None  # the next answer will have been waited for, not queued

    def answered(self, share: float) -> None:
        """Note that one of those inside has its first answer; see ``Place.answered``."""
        now_s = self._clock()
        if self._busy_since_s is not None:
            if len(self._gaps_s) == WINDOW:
                self._sum_s -= self._gaps_s[0]
            self._gaps_s.append(share * (now_s - self._busy_since_s))
            self._sum_s += self._gaps_s[-1]
        self._busy_since_s = now_s

    def num_ahead(self, deadline_s: float) -> int:
        """Return how many of those inside that have no answer are due before ``deadline_s``."""
        return sum(queue.num_before(deadline_s) for queue in self._queues.values())

    def wait_s(
        self,
        deadline_s: float,
        principal: Principal = NOBODY,
        needed_s: float = math.inf,
        turn: int | None = None,
    ) -> float:
        """Return the seconds until those ahead have left, at the pace of the latest answers.

        It is assumed that they hurry. Principals take turns (see ``fair_shares``): until a request
        of ``principal`` that needs ``needed_s`` has been served, no other one has had more, for its
        share, than that and those of its own that are ahead take; ``turn`` is that of a frame. It
        is 0 for as long as there have been few answers.
        """
        count, sum_s = len(self._gaps_s), self._sum_s
        if count < MIN_ANSWERS:
            return 0.0
        if (
            self._busy_since_s is not None
            and (open_s := self._clock() - self._busy_since_s) * count > sum_s
        ):
            count, sum_s = count + 1, sum_s + open_s  # that it takes longer is known before its end
        pace_s, own = sum_s / count, self._queues.get(principal.name)
        own_s = 0.0 if own is None else pace_s * own.num_before(deadline_s, turn)
        turn_s = (own_s + needed_s) / principal.share
        return own_s + sum(
            min(pace_s * queue.num_before(deadline_s), turn_s * queue.share)
            for queue in self._queues.values()
            if queue is not own
        )
