"""Backlog of requests that were admitted and have not left yet, and how fast they leave.

In overload most images could only be decoded to be refused, and decoding them takes the time from
those that are served. So each arrival is compared with the requests that are inside and due before
it, and with how fast answers have lately come out, or could have, had they been no deeper than they
must: that has in it whatever slows this server down, wherever its engine runs.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from serving.core.ports import Clock

WINDOW = 32
"""Number of latest answers that the pace is taken from.

They are a quarter of a second of a busy small server.
"""
MIN_ANSWERS = 8
"""Fewest answers from which a pace is taken; with fewer nothing is known."""


class Place:
    """One request's place in a backlog."""

    def __init__(self, backlog: Backlog, deadline_s: float) -> None:
        self._backlog = backlog
        self._deadline_s = deadline_s
        self._number = backlog.num_joined
        self._was_first = backlog.num_inside == 0
        self._is_awaited = True

    @property
    def was_alone(self) -> bool:
        """Whether nobody else has been inside since it joined."""
        return self._was_first and self._backlog.num_joined == self._number

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
        if self._is_awaited:
            self._is_awaited = False
            self._backlog.remove(self._deadline_s)


class Backlog:
    """One server's backlog of admitted requests. Not thread-safe: the event loop owns it."""

    def __init__(self, clock: Clock) -> None:
        self.num_joined = 0
        """Number of requests that have ever been inside."""
        self.num_inside = 0
        """Number of requests that are inside."""
        self._clock = clock
        self._deadlines_s: list[float] = []  # of those inside that have no answer, in order
        self._gaps_s: deque[float] = deque(maxlen=WINDOW)
        self._sum_s = 0.0
        self._busy_since_s: float | None = None

    @contextmanager
    def joined(self, deadline_s: float) -> Iterator[Place]:
        """Count a request as inside for as long as the context lasts.

        Until its place is told of an answer, it is ahead of whoever is due later.
        """
        self.num_joined += 1
        place = Place(self, deadline_s)
        self.num_inside += 1
        insort(self._deadlines_s, deadline_s)
        try:
            yield place
        finally:
            self.num_inside -= 1
            place.leave()

    def remove(self, deadline_s: float) -> None:
        """Take out a request with that deadline, which is awaited no longer."""
        del self._deadlines_s[bisect_left(self._deadlines_s, deadline_s)]
        if not self._deadlines_s:
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
        return bisect_left(self._deadlines_s, deadline_s)

    def wait_s(self, deadline_s: float) -> float:
        """Return the seconds until those ahead have left, at the pace of the latest answers.

        It is assumed that they hurry. It is 0 for as long as there have been few answers.
        """
        count, sum_s = len(self._gaps_s), self._sum_s
        if count < MIN_ANSWERS:
            return 0.0
        if (
            self._busy_since_s is not None
            and (open_s := self._clock() - self._busy_since_s) * count > sum_s
        ):
            count, sum_s = count + 1, sum_s + open_s  # that it takes longer is known before its end
        return self.num_ahead(deadline_s) * sum_s / count
