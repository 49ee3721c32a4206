"""Whom to run for when not everybody who waits can be in time.

While more come than can be served, engine time is what is short, and large batches need least of it
per answer. So the largest batch that can be filled with requests that are in time in it comes
first, as in Clockwork (Gujarati et al., OSDI 2020). Those with earlier deadlines are lost by that,
unless the largest batch with the most urgent of them can go before it and make nobody in it late.

A crowd that will pass can do without: the most urgent who can be in time go first, as in Moore and
Hodgson's rule (Management Science 15, 1968), if by going on so more of those who wait now are in
time than after the largest batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import attrgetter

from serving.core.request import Request
from serving.core.scheduling.path_costs import EPSILON_S

_deadline_s = attrgetter("deadline_s")

Seconds = Callable[[int], float]
"""What a batch of so many takes."""
_Span = tuple[int, int]
"""A batch: where in the queue it starts, and its size."""


def choose_batch(
    queue: Sequence[Request],
    now_s: float,
    sizes: Sequence[int],
    seconds: Seconds,
    limit_s: float,
    *,
    overload_lasts: bool,
) -> Sequence[Request]:
    """The batch to run now, of ``queue``, which is in order of deadline; empty if there is none.
    ``sizes`` are those that pay, smallest first; no run may take longer than ``limit_s``.
    ``lasts``: whether more keep coming than can be served."""
    seconds = {size: seconds(size) for size in sizes}.__getitem__  # asked for again and again
    usable = [size for size in sizes if seconds(size) <= limit_s + EPSILON_S]
    if not usable or not queue:
        return ()
    first, size = _largest_batch(queue, now_s, usable, seconds)
    if not overload_lasts:
        urgent = _most_urgent_batch(queue, now_s, usable, seconds)
        if urgent != (first, size):
            spans = (first, size), urgent
            first, size = max(spans, key=lambda s: _count_in_time(queue, s, now_s, sizes, seconds))
    return queue[first : first + size]


def _largest_batch(
    queue: Sequence[Request], now_s: float, sizes: Sequence[int], seconds: Seconds
) -> _Span:
    """The largest batch that is in time, or what can go before it; the head alone if there is
    none."""
    for size in reversed(sizes):
        in_time_s = now_s + seconds(size) - EPSILON_S
        first = bisect_left(queue, in_time_s, key=_deadline_s)
        if first + size <= len(queue):
            break
    else:
        return 0, 1
    if first == 0:
        return 0, size
    # The head may be late by the cautious estimate, and still goes alone.
    urgent = _largest_size_within(queue[0].deadline_s - now_s, len(queue), sizes, seconds) or 1
    both_s = seconds(urgent) + seconds(size)
    can_wait = now_s + both_s <= queue[first].deadline_s + EPSILON_S
    return (0, urgent) if can_wait else (first, size)


def _largest_size_within(left_s: float, rows: int, sizes: Sequence[int], seconds: Seconds) -> int:
    """The size of the largest batch of these rows that takes no longer than ``left_s``; 0 if none
    does."""
    for size in reversed(sizes):
        if size <= rows and seconds(size) <= left_s + EPSILON_S:
            return size
    return 0


def _most_urgent_batch(
    queue: Sequence[Request], now_s: float, sizes: Sequence[int], seconds: Seconds
) -> _Span:
    """The first who can be in time, in the largest batch that it is in time in; the head alone if
    there is nobody."""
    for first, request in enumerate(queue):
        size = _largest_size_within(request.deadline_s - now_s, len(queue) - first, sizes, seconds)
        if size:
            return first, size
    return 0, 1


def _count_in_time(
    queue: Sequence[Request], span: _Span, now_s: float, sizes: Sequence[int], seconds: Seconds
) -> tuple[int, float]:
    """How many of the queue are in time if this batch goes first and then, again and again, the
    most urgent who can be; and how soon that is done, as a negative instant."""
    first, size = span
    end_s = now_s + seconds(size)
    count = sum(r.deadline_s >= end_s - EPSILON_S for r in queue[first : first + size])
    rest, start = [*queue[:first], *queue[first + size :]], 0
    largest_first = [(size, seconds(size)) for size in reversed(sizes)]
    while start < len(rest):
        left_s = rest[start].deadline_s - end_s + EPSILON_S
        for size, batch_s in largest_first:
            if batch_s <= left_s and start + size <= len(rest):
                end_s += batch_s
                start += size
                count += size
                break
        else:
            start += 1
    return count, -end_s
