from __future__ import annotations

import os
import threading

import pytest

from serving.system.low_priority import NICENESS, in_low_priority_thread


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_only_the_thread_is_nice() -> None:
    before = niceness()
    assert in_low_priority_thread(niceness) == NICENESS
    assert niceness() == before


def test_what_it_raises_comes_through() -> None:
    def fails() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        in_low_priority_thread(fails)
