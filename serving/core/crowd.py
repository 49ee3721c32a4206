"""Whom to run for when not everybody who waits can be in time.

Then engine time is what is short, and large batches need least of it per answer. So the largest
batch that can be filled with requests that are in time in it comes first, as in Clockwork (Gujarati
et al., OSDI 2020). Those with earlier deadlines are lost by that, unless the largest batch with the
most urgent of them can go before it and make nobody in it late.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import attrgetter

from serving.core.costs import EPSILON_S
from serving.core.request import Request

_deadline_s = attrgetter("deadline_s")


def choose(
    queue: Sequence[Request],
    now_s: float,
    sizes: Sequence[int],
    seconds: Callable[[int], float],
    limit_s: float,
) -> Sequence[Request]:
    """The batch to run now, of ``queue``, which is in order of deadline; empty if there is none.
    ``sizes`` are those that pay, smallest first, and ``seconds`` what they take; no run may take
    longer than ``limit_s``."""
    usable = [size for size in sizes if seconds(size) <= limit_s + EPSILON_S]
    best: Sequence[Request] = ()
    for size in reversed(usable):
        in_time_s = now_s + seconds(size) - EPSILON_S
        first = bisect_left(queue, in_time_s, key=_deadline_s)
        if first + size <= len(queue):
            best = queue[first : first + size]
            break
    else:
        return queue[:1] if usable else ()
    if best[0] is queue[0]:
        return best
    urgent = _with_head(queue, now_s, usable, seconds)
    both_s = seconds(len(urgent)) + seconds(len(best))
    return urgent if now_s + both_s <= best[0].deadline_s + EPSILON_S else best


def _with_head(
    queue: Sequence[Request], now_s: float, sizes: Sequence[int], seconds: Callable[[int], float]
) -> Sequence[Request]:
    """The largest batch with the head in it that makes it no late one; the head alone, if it is
    late by the cautious estimate."""
    left_s = queue[0].deadline_s - now_s + EPSILON_S
    for size in reversed(sizes):
        if size <= len(queue) and seconds(size) <= left_s:
            return queue[:size]
    return queue[:1]
