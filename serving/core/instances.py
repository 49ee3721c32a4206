"""Instances of an engine: runs that may be under way at a time, and the threads of each.

A run on several threads waits for the slowest of them after every layer. Where these share their
cores with a gateway, which takes one of them now and then, the others wait as well, and burn what
they wait for. Several runs of one thread each wait for nobody.
"""

from __future__ import annotations

DEFAULT_INSTANCES = 2
"""Number of instances of an engine that has as many threads."""


def share_threads(num_instances: int | None, num_threads: int) -> tuple[int, int]:
    """Return the number of instances of an engine, and the number of threads of each.

    ``num_threads`` are all there are; each instance has one at least. None: ``DEFAULT_INSTANCES``,
    or fewer where there are fewer threads.
    """
    if num_instances is None:
        num_instances = min(DEFAULT_INSTANCES, num_threads)
    return num_instances, max(1, num_threads // num_instances)
