"""Work that keeps out of the way of what serves: it has a processor when nobody else wants one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

NICENESS = 19
"""Least claim on a processor that Linux knows: a seventieth of the usual one."""


def lower_priority() -> None:
    """Let this process have one processor, when nobody else wants it. It cannot be undone."""
    with suppress(AttributeError, OSError):  # where there is no such thing, it is as before
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with suppress(OSError):
        os.nice(NICENESS)


def in_low_priority_thread(function: Callable[[], T]) -> T:
    """Return what ``function`` returns, or raise what it raises, from a thread that is nice.

    So are the threads that it starts. On Linux alone: elsewhere it is a thread like any other.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        with suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="low-priority", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
