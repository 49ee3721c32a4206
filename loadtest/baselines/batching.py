"""Rules by which a policy of one depth forms batches: what to run now, or until when to wait.

Each rule is given the requests that are to be run at one depth, by deadline, none of which is
doomed; batch sizes that pay, smallest first; and the predicted time of each size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import attrgetter

from loadtest.baselines.exits import Queue, Seconds
from serving.core.scheduling.path_costs import EPSILON_S

Batcher = Callable[[Queue, float, Sequence[int], Seconds], Queue | float]
"""A batching rule: (queue, now_s, sizes, seconds) -> a batch, or the instant to wait until."""

_deadline_s = attrgetter("deadline_s")


def clockwork(queue: Queue, now_s: float, sizes: Sequence[int], seconds: Seconds) -> Queue:
    """Return the largest batch that can be filled at once with requests that are in time in it.

    Clockwork (Gujarati et al., OSDI 2020; ``infer5_scheduler.cpp``) keeps a queue for each batch
    size, drops from its front the requests that cannot be in time in such a batch, and takes the
    largest size whose queue holds enough. Here the queues are suffixes of one queue. Requests
    before the suffix are lost if they cannot wait; so they go first, in a batch of their own, where
    the larger batch can wait for that.
    """
    best = queue[:1]
    for size in reversed(sizes):
        first = bisect_left(queue, now_s + seconds(size) - EPSILON_S, key=_deadline_s)
        if first + size <= len(queue):
            best = queue[first : first + size]
            break
    if best[0] is queue[0]:
        return best
    urgent = _with_head(queue, now_s, sizes, seconds)
    both_s = seconds(len(urgent)) + seconds(len(best))
    if now_s + both_s <= best[0].deadline_s + EPSILON_S:
        return urgent
    return best


def _with_head(queue: Queue, now_s: float, sizes: Sequence[int], seconds: Seconds) -> Queue:
    """Return the largest batch with the head in it that is in time, or the head alone."""
    limit_s = queue[0].deadline_s - now_s + EPSILON_S
    for size in reversed(sizes):
        if size <= len(queue) and seconds(size) <= limit_s:
            return queue[:size]
    return queue[:1]


def nexus(queue: Queue, now_s: float, sizes: Sequence[int], seconds: Seconds) -> Queue | float:
    """Return a full batch once there is one, else wait for one as long as the head can wait for it.

    Nexus (Shen et al., SOSP 2019), as in Proteus' ``nexus_expiring_callback``. Its early drop,
    which gives up a head for whose sake the batch would have to be small, is Clockwork's choice.
    """
    start_s = queue[0].deadline_s - seconds(sizes[-1])
    if len(queue) < sizes[-1] and now_s < start_s - EPSILON_S:
        return start_s
    return clockwork(queue, now_s, sizes, seconds)


def proteus(queue: Queue, now_s: float, sizes: Sequence[int], seconds: Seconds) -> Queue | float:
    """Wait for the next larger batch while the head could be in time in it, then run what is there.

    What is run then is the largest batch that is filled, as Clockwork chooses it: a batch is never
    padded. Proteus (Ahmad et al., ASPLOS 2024), adaptive batching.
    """
    larger = next((size for size in sizes if size > len(queue)), None)
    if larger is not None:
        start_s = queue[0].deadline_s - seconds(larger)
        if now_s < start_s - EPSILON_S:
            return start_s
    return clockwork(queue, now_s, sizes, seconds)
