"""Demand: how often requests arrive at an executor, how unevenly, and with how much time.

It is measured over the latest arrivals, so that a policy can weigh what it has against what will
come.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

WINDOW = 64
"""Number of latest arrivals that are looked back at: enough for a rate within a fifth, few enough
to notice a burst while it lasts."""
NUM_BUDGETS = 6
"""Number of budgets that those of a window are summed up as: the middle of each sixth of them."""
MIN_ARRIVALS = 8
"""Number of arrivals below which nothing is known of the demand."""
MAX_IDLE_BUDGETS = 8.0
"""Number of times the window's longest budget that a silence counts as at most. Whoever came before
it is gone, so that more of it tells nothing of those who come after; and a minute of it would make
the next ``WINDOW`` arrivals look like one a second, however fast they come. In the simulator, with
on/off arrivals (4 s in 14, loads of .6 and .9 while on, cpu-lite and the model in this repository),
that cost 1 to 2 in 100 requests; a limit of 4 or 16 does much the same, and at 4 very uneven
arrivals (gamma:8) lose by it."""
BUSY_DEVIATIONS = 2.0
"""Number of standard deviations (of a Poisson count) by which more arrivals than were seen may have
found the engine at work. Where none was seen none is feared: depth that is bought for that keeps
the engine at work for longer, and the next arrivals tell."""
_TICKS = 2**40
"""Number of ticks in a second. Gaps are summed up in whole ticks, so that long ones leave nothing
behind of themselves when they have left the window."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The demand that the latest arrivals show."""

    rate_hz: float
    """Number of arrivals per second."""
    cv2: float
    """Squared coefficient of variation of the times between arrivals: 0 when they are even, 1 for a
    Poisson process, more for bursts."""
    budgets_s: tuple[float, ...]
    """Seconds from arrival to deadline, smallest first; each stands for an equal share of
    requests."""
    busy_share: float = 1.0
    """Share of the arrivals that found the engine at work, at most: what the sample leaves likely.

    Where arrivals do not wait for answers it is the share of the time that the engine works
    (Poisson arrivals see time averages: Wolff, Operations Research 30, 1982). A client that sends
    its next image when it has the answer to the last finds it idle, however fast it is."""

    @property
    def budget_s(self) -> float:
        """Mean of the budgets, in seconds."""
        return sum(self.budgets_s) / max(1, len(self.budgets_s))


UNKNOWN = Demand(0.0, 1.0, ())
"""Demand of which nothing is known: nobody has arrived lately."""


class DemandMeter:
    """A meter of demand that remembers the latest ``WINDOW`` arrivals.

    Not thread-safe: one executor owns it.
    """

    def __init__(self) -> None:
        # Instant, budget, ticks since the one before, whether the engine was at work, and whether
        # it is of another group than the one before.
        self._arrivals: deque[tuple[float, float, int, bool, bool]] = deque(maxlen=WINDOW)
        self._budgets: list[float] = []  # of the same, in order
        self._sum_gaps = self._sum_squares = self._num_busy = self._num_groups = 0
        self._group: int | None = None

    def arrived(self, now_s: float, budget_s: float, busy: bool, group: int | None = None) -> None:
        """Take note of an arrival that has ``budget_s`` seconds left.

        ``busy``: whether it found the engine at work; ``group``: number of the parts of one
        request, if it is one of them. ``now_s`` never falls.
        """
        arrivals = self._arrivals
        if len(arrivals) == WINDOW:
            gap = arrivals[1][2]
            self._sum_gaps -= gap
            self._sum_squares -= gap * gap
            self._num_busy -= arrivals[0][3]
            self._num_groups -= arrivals[0][4]
            del self._budgets[bisect_left(self._budgets, arrivals[0][1])]
        gap = round(_TICKS * self._silence_s(now_s)) if arrivals else 0
        self._sum_gaps += gap
        self._sum_squares += gap * gap
        insort(self._budgets, budget_s)
        self._num_busy += busy
        is_new, self._group = group is None or group != self._group, group
        self._num_groups += is_new
        arrivals.append((now_s, budget_s, gap, busy, is_new))

    def _silence_s(self, now_s: float) -> float:
        """Return the seconds since the latest arrival, as far as they count."""
        longest_s = max(0.0, self._budgets[-1])  # late on arrival, all of them, is possible
        return min(now_s - self._arrivals[-1][0], MAX_IDLE_BUDGETS * longest_s)

    def measure(self, now_s: float) -> Demand:
        """Return the demand as of ``now_s``.

        A silence that has lasted longer than the usual gap counts as one. While all are parts of
        one request nothing is known: they came at once, which tells nothing of what comes next.
        """
        count = len(self._arrivals)
        if count < MIN_ARRIVALS or self._num_groups - self._arrivals[0][4] < 1:
            return UNKNOWN
        silence_s = self._silence_s(now_s)
        gaps = count - 1
        span_s, squares = self._sum_gaps / _TICKS, self._sum_squares / _TICKS**2
        mean_s = span_s / gaps
        if silence_s > mean_s:
            gaps, span_s, squares = gaps + 1, span_s + silence_s, squares + silence_s**2
            mean_s = span_s / gaps
        if mean_s <= 0.0:
            return UNKNOWN
        cv2 = max(0.0, squares / gaps / mean_s**2 - 1.0)
        step = count / NUM_BUDGETS
        budgets_s = [self._budgets[int((i + 0.5) * step)] for i in range(NUM_BUDGETS)]
        likely = self._num_busy + BUSY_DEVIATIONS * math.sqrt(self._num_busy)
        return Demand(1.0 / mean_s, cv2, tuple(budgets_s), min(1.0, likely / count))
