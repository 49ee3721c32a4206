"""Batch selection under overload: whom to run for when not everybody who waits can be in time.

While requests come faster than they can be served, engine time is what is short, and large batches
need least of it per answer. So the largest batch that can be filled with requests that are in time
in it comes first, as in Clockwork (Gujarati et al., OSDI 2020). Requests with earlier deadlines are
lost by that, unless the largest batch with the most urgent of them can go before it and make nobody
in it late.

An overload that will pass need not cost the most urgent: of those who can be in time they go first,
as in Moore and Hodgson's rule (Management Science 15, 1968), if by going on so more of the requests
that wait now are in time than after the largest batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import attrgetter

from serving.core.request import Request
from serving.core.scheduling.path_costs import EPSILON_S

_deadline_s = attrgetter("deadline_s")

Seconds = Callable[[int], float]
"""Function from a batch size to the seconds that a batch of so many is taken to need."""
_Span = tuple[int, int]
"""A batch as part of the queue: the position of its first request, and its size."""


def choose_batch(
    queue: Sequence[Request],
    now_s: float,
    sizes: Sequence[int],
    seconds: Seconds,
    limit_s: float,
    *,
    overload_lasts: bool,
) -> Sequence[Request]:
    """Return the requests of ``queue`` to run now as one batch; none if no run is short enough.

    ``queue`` is in order of deadline. ``sizes`` are the batch sizes that pay off, smallest first,
    and ``seconds`` what each needs; no run may take longer than ``limit_s``. ``overload_lasts``:
    whether more requests keep coming than can be served.
    """
    seconds = {size: seconds(size) for size in sizes}.__getitem__  # looked up again and again
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
    """Return the largest batch that is in time, or an urgent one that can go before it.

    If no batch is in time, it is the head of the queue alone.
    """
    for size in reversed(sizes):
        in_time_s = now_s + seconds(size) - EPSILON_S
        first = bisect_left(queue, in_time_s, key=_deadline_s)
        if first + size <= len(queue):
            break
    else:
        return 0, 1
    if first == 0:
        return 0, size
    # The head may be late by the seconds assumed, and still goes alone.
    urgent = _largest_size_within(queue[0].deadline_s - now_s, len(queue), sizes, seconds) or 1
    both_s = seconds(urgent) + seconds(size)
    can_wait = now_s + both_s <= queue[first].deadline_s + EPSILON_S
    return (0, urgent) if can_wait else (first, size)


def _largest_size_within(left_s: float, rows: int, sizes: Sequence[int], seconds: Seconds) -> int:
    """Return the size of the largest batch that takes no longer than ``left_s`` seconds.

    It has no more than ``rows`` requests; 0 if none is short enough.
    """
    for size in reversed(sizes):
        if size <= rows and seconds(size) <= left_s + EPSILON_S:
            return size
    return 0


def _most_urgent_batch(
    queue: Sequence[Request], now_s: float, sizes: Sequence[int], seconds: Seconds
) -> _Span:
    """Return the largest batch, in time, that starts with the first request that can be in time.

    If no request can, it is the head of the queue alone.
    """
    for first, request in enumerate(queue):
        size = _largest_size_within(request.deadline_s - now_s, len(queue) - first, sizes, seconds)
        if size:
            return first, size
    return 0, 1


def _count_in_time(
    queue: Sequence[Request], span: _Span, now_s: float, sizes: Sequence[int], seconds: Seconds
) -> tuple[int, float]:
    """Return how many of the queue are in time if ``span`` goes first, and how soon that is done.

    After it go, again and again, the most urgent who can be in time. How soon is a negative
    instant, so that the greater of two such pairs is the better one.
    """
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
