"""What a server holds, read from processes as Linux shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loadtest.servers.processes import RunningServer, StudyError
from loadtest.studies.soak import samples
from loadtest.studies.soak.samples import PROC, pids, take_sample

EXPOSITION = """\
punctual_requests_total{outcome="ok"} 7.0
punctual_event_loop_tasks 5.0
punctual_waiting_requests 1.0
punctual_in_flight_requests 2.0
punctual_held_requests 0.0
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Two processes of group 40, and one of another."""
    for pid, group in (("41", "40"), ("42", "40"), ("43", "43")):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "fd" / "0").touch()
        (tmp_path / pid / "stat").write_text(f"{pid} (a (b) c) S 1 {group} 1 0\n")
        (tmp_path / pid / "status").write_text(
            "Name:\tx\nVmRSS:\t    30 kB\nRssAnon:\t  20 kB\nThreads:\t4\n"
        )
    (tmp_path / "version").touch()
    return tmp_path


def test_a_sample_is_of_all_processes_of_a_server(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "get_text", lambda _: EXPOSITION)
    sample = take_sample(RunningServer("http://x", 40), 1.5, 10, proc)
    assert (sample.at_s, sample.sent) == (1.5, 10)
    assert (sample.resident_bytes, sample.anonymous_bytes) == (60 * 1024, 40 * 1024)
    assert (sample.descriptors, sample.threads) == (2, 8)
    assert (sample.tasks, sample.inside) == (5, 3)


def test_a_server_that_does_not_tell_cannot_be_sampled(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "get_text", lambda _: "up 1.0\n")
    with pytest.raises(StudyError, match="no gauge of 'event_loop_tasks'"):
        take_sample(RunningServer("http://x", 40), 0.0, 0, proc)


def test_this_process_is_of_its_group() -> None:
    assert str(os.getpid()) in pids(os.getpgrp(), PROC)
