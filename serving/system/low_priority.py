"""Work that keeps out of the way of what serves: it has a processor when nobody else wants one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

NICENESS = 19
"""Least claim on a processor that Linux knows of a thread that is scheduled like any other: a
seventieth of the usual one."""


def lower_priority() -> None:
    """Let this process have one processor, when nobody else wants it. It cannot be undone.

    So do the threads that it starts from now on.
    """
    with suppress(AttributeError, OSError):  # where there is no such thing, it is as before
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with suppress(OSError):
        os.nice(NICENESS)
    # Unlike one that is merely nice, it is put off the processor as soon as anybody else wakes up.
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


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
