"""Times that replies take to leave, from which the reserve for answers in hand comes.

    the answer is there, or has to be sent ---> the event loop gets to it ---> the reply is written
                                           '---------- lag -----------' '------- writing -------'

On a busy machine the event loop gets to it late, mostly by less than a millisecond and now and then
by several. Whoever has no answer is worth that risk; an answer in hand that is late is lost for
nothing. So it is sent early enough that nearly all replies of late would have been in time.
"""

from __future__ import annotations

from serving.core.ports import Clock
from serving.core.recent_values import RecentValues

WINDOW = 1024
"""Number of latest replies that the reserve is taken from."""
WINDOW_S = 60.0
QUANTILE = 0.998
"""Quantile of their times that the reserve is. The event loop may be as late when it reads a
request, which only the client sees. The sum of two such times exceeds what each of them seldom
does about twice as often as one."""
SEED_S = 0.001
"""Seconds that are reckoned with at least."""
MAX_RESERVE_SHARE = 0.1
"""Largest share of a budget that is reserve. Where replies take longer, more of it would cost more
better answers than it saves."""
REFRESH_S = 0.5
"""Seconds that the reserve may be old; to find it takes a tenth of a millisecond."""


class ReplyTimes:
    """Times that one server's replies take. Not thread-safe: the event loop owns it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._recent_s = RecentValues(WINDOW_S, WINDOW, [SEED_S])
        self._reserve_s = SEED_S
        self._refresh_at_s = clock() + REFRESH_S

    def observe(self, due_s: float, written_s: float) -> None:
        """Learn from a reply that was due to be written at one instant, and was at another."""
        self._recent_s.add(written_s, max(0.0, written_s - due_s))

    def reserve_s(self, budget_s: float) -> float:
        """Return how long before its deadline an answer in hand has to be sent, in seconds.

        It is that of a request with a budget of ``budget_s``.
        """
        now_s = self._clock()
        if now_s >= self._refresh_at_s:
            self._refresh_at_s = now_s + REFRESH_S
            self._reserve_s = self._recent_s.quantile(now_s, QUANTILE)
        return min(self._reserve_s, MAX_RESERVE_SHARE * budget_s)
