"""What a drilled gateway suffers from."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest.servers import faults
from loadtest.servers.faults import (
    ERRATIC,
    ERRATIC_S,
    ERRATIC_SHARE,
    LEAK,
    LEAKED_BYTES,
    STUCK,
    FaultyPolicy,
    faulty,
)
from serving.core.ladder import Ladder

DECISION, SNAPSHOT, LATENCY = object(), object(), object()


class Sleeps:
    """Notes how long; the third time, the file changes to ``then``."""

    def __init__(self, file: Path, then: str = "") -> None:
        self.seconds: list[float] = []
        self._file = file
        self._then = then

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) == 3:
            self._file.write_text(self._then)


def decide(snapshot: object, latency: object) -> object:
    assert (snapshot, latency) == (SNAPSHOT, LATENCY)
    return DECISION


POLICY: Any = SimpleNamespace(decide=decide)


def ask(policy: Any) -> object:
    return policy.decide(SNAPSHOT, LATENCY)


def test_nothing_is_wrong_unless_the_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "fault"
    sleeps = Sleeps(file)
    policy = FaultyPolicy(POLICY, file, sleeps)
    assert ask(policy) is DECISION
    file.write_text("hiccups")
    assert ask(policy) is DECISION
    assert not sleeps.seconds


def test_stuck_until_the_file_says_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "fault"
    file.write_text(f"{STUCK}\n")
    sleeps = Sleeps(file)
    assert ask(FaultyPolicy(POLICY, file, sleeps)) is DECISION
    assert len(sleeps.seconds) == 3


def test_erratic_turns_are_some_and_differ(tmp_path: Path) -> None:
    file = tmp_path / "fault"
    file.write_text(ERRATIC)
    sleeps = Sleeps(file, then=ERRATIC)
    policy = FaultyPolicy(POLICY, file, sleeps)
    assert all(ask(policy) is DECISION for _ in range(1000))
    assert abs(len(sleeps.seconds) / 1000 - ERRATIC_SHARE) < 0.05
    assert min(sleeps.seconds) < 0.1 * ERRATIC_S
    assert 0.9 * ERRATIC_S < max(sleeps.seconds) <= ERRATIC_S


def test_policies_are_made_as_ever(tmp_path: Path) -> None:
    given: list[object] = []
    ladder = Ladder.of_exits((0.5,))

    def factory(*arguments: object) -> Any:
        given.extend(arguments)
        return POLICY

    policy = faulty(factory, tmp_path / "fault")((), ladder, (1,), 4)
    assert given == [(), ladder, (1,), 4]
    assert ask(policy) is DECISION


def test_a_leak_keeps_memory_files_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "LEAKS_FILE_EVERY", 2)
    monkeypatch.setattr(faults, "LEAKS_THREAD_EVERY", 3)
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    file = tmp_path / "fault"
    file.write_text(LEAK)
    policy = FaultyPolicy(POLICY, file)
    assert all(ask(policy) is DECISION for _ in range(6))
    assert sum(map(len, policy._leaked)) == 6 * LEAKED_BYTES
    assert len(policy._leaked_files) == 3
    assert not any(each.closed for each in policy._leaked_files)
    assert len(started) == 2
    for each in policy._leaked_files:
        each.close()
