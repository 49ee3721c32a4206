"""Recovery from a burst: what it does to answers, and how soon after it they are as before.

|  settling  |  before  |--- during ---|  first WINDOW bins that are as good as before: it is back

A server starts without knowing how much is asked of it, so the first half of the time until the
burst is for settling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.simulation.study import Timeline

WINDOW = 4
"""Number of neighbouring bins that are looked at together: one alone has few requests."""
ATTAINMENT_TOLERANCE = 0.02
"""Largest loss of attainment, in shares of all requests, at which it counts as back."""
DEPTH_TOLERANCE = 0.05
"""Largest loss of mean depth, as a share of the depth before, at which it counts as back."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Figures of the requests that arrived in some bins in a row."""

    attainment: float
    depth: float
    """Mean depth of the answers in time; 0 if there are none."""
    goodput_hz: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """Figures before and during a burst, and how long after it they were as before."""

    before: Stretch
    during: Stretch
    attainment_back_s: float | None
    """Seconds from the burst's end until attainment is back; None if it never is.

    It is back at the end of the first ``WINDOW`` bins that are as before.
    """
    depth_back_s: float | None


def recovery(
    timeline: Timeline, burst_s: tuple[float, float], duration_s: float, num_runs: int
) -> Recovery | None:
    """Compute the recovery from the sum of ``num_runs`` runs.

    It is None unless bins lie wholly before the burst (two or more), in it and after it.
    """
    num_bins = len(timeline.arrived)
    bin_s = duration_s / num_bins
    first, last = -int(-burst_s[0] // bin_s), int(burst_s[1] // bin_s)
    after = -int(-burst_s[1] // bin_s)
    settled = -(-first // 2)
    if not (settled < first < last and after + WINDOW <= num_bins):
        return None

    def stretch(start: int, stop: int) -> Stretch:
        arrived, in_time, depths = (
            sum(values[start:stop])
            for values in (timeline.arrived, timeline.in_time, timeline.depths)
        )
        seconds = (stop - start) * bin_s * num_runs
        return Stretch(in_time / max(1, arrived), depths / max(1, in_time), in_time / seconds)

    def back_s(is_back: Callable[[Stretch], bool]) -> float | None:
        for stop in range(after + WINDOW, num_bins + 1):
            if is_back(stretch(stop - WINDOW, stop)):
                return stop * bin_s - burst_s[1]
        return None

    before = stretch(settled, first)
    return Recovery(
        before,
        stretch(first, last),
        back_s(lambda now: now.attainment >= before.attainment - ATTAINMENT_TOLERANCE),
        back_s(lambda now: now.depth >= before.depth * (1 - DEPTH_TOLERANCE)),
    )
