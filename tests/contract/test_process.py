"""What only a runner in a process of its own can get wrong."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from serving.core import segment as segments
from serving.core.errors import BackendError, EngineLost
from serving.imaging.decoding import refit
from serving.models import engine_process
from serving.models.engine_process import open_family_in_process
from serving.models.runtime_options import RuntimeOptions
from serving.runners.process import ProcessRunner
from tests.e2e.process import eventually


@pytest.fixture
def runner(exported):
    opened = open_family_in_process((exported.folder,), RuntimeOptions("onnxruntime", 1), refit)
    assert isinstance(opened, ProcessRunner)
    yield opened
    opened.close()


def pid_of(runner: ProcessRunner) -> int:
    return runner._engine._process.pid


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_an_error_of_the_run(runner, exported, number):
    batch = runner.load(exported.images[:1])
    os.kill(pid_of(runner), number)
    for _ in range(2):
        with pytest.raises(EngineLost, match=f"ended with -{number:d}"):
            runner.run(segments.fused_exit(1), batch)
    runner.release(batch)


def test_whoever_tells_a_group_of_processes_to_end_does_not_mean_the_engine(runner, exported):
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid_of(runner), number)
    batch = runner.load(exported.images[:1])
    assert runner.detections(runner.run(segments.fused_exit(1), batch))


def test_a_run_that_hangs_can_be_ended(runner, exported):
    os.kill(pid_of(runner), signal.SIGSTOP)
    batch, ends = runner.load(exported.images[:1]), []

    def run() -> None:
        try:
            runner.run(segments.fused_exit(1), batch)
        except EngineLost as error:
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    runner.abort()
    thread.join()
    assert len(ends) == 1


def test_an_error_there_is_one_here_and_no_more(runner, exported):
    runner.segments = frozenset({*runner.segments, segments.fused_exit(9)})
    batch = runner.load(exported.images[:1])
    with pytest.raises(RuntimeError, match="no segment exit_9"):
        runner.run(segments.fused_exit(9), batch)
    assert runner.detections(runner.run(segments.fused_exit(1), batch))


def test_features_that_were_released_are_let_go_there(runner, exported):
    batch = runner.load(exported.images[:1])
    for _ in range(100):
        features = runner.run(segments.STEM, batch)
        runner.release(features)
        runner.release(features)
    assert len(runner._engine._dropped) == 1, "it goes when something is sent next"


def test_closing_ends_it(runner):
    pid = pid_of(runner)
    runner.close()
    assert not Path("/proc", str(pid)).exists()
    with pytest.raises(RuntimeError, match="closed"):
        runner.load([])


def test_what_cannot_be_opened_is_said_in_its_words(exported, tmp_path):
    with pytest.raises(BackendError, match="cannot be used"):
        open_family_in_process((tmp_path,), RuntimeOptions("onnxruntime", 1), refit)
    eventually(lambda: not children())


def test_a_process_that_opens_nothing_in_time_is_ended(exported, monkeypatch):
    monkeypatch.setattr(engine_process, "OPEN_WITHIN_S", 0.0)
    with pytest.raises(EngineLost):
        open_family_in_process((exported.folder,), RuntimeOptions("onnxruntime", 1), refit)
    assert not children()


def children() -> set[int]:
    """Processes of this one that have not been waited for, and are engines."""
    found = set()
    for path in Path("/proc", str(os.getpid()), "task").glob("*/children"):
        found |= {int(pid) for pid in path.read_text().split()}
    return {
        pid for pid in found
        if b"serving.models.engine_process" in Path("/proc", str(pid), "cmdline").read_bytes()
    }  # fmt: skip
