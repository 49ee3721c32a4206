"""Trials of versions, with processes that do what a bad version would."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.core.request import Detections
from serving.models import trial as module
from serving.models.runtime_options import RuntimeOptions
from serving.models.trial import Trial, TrialFailed, TrialJob, run_trial, trial_images, try_version
from tests.serving.fakes import FAMILY
from tests.serving.world import NUM_EXITS, FakeBatch, FakeClock, FakeRunner

JOB = TrialJob((Path("nowhere"),), RuntimeOptions("onnxruntime", 1), low_priority=True)
ROOM = 2**40


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def told(trial: str) -> tuple[str, ...]:
    return python(f"import sys; sys.stdin.buffer.read(); print('{trial}')")


def test_what_a_trial_says_is_what_came_of_it() -> None:
    command = told('{"precision": "int8", "reason": "it is quick", "failure": null}')
    assert try_version(JOB, ROOM, command=command) == Trial("int8", "it is quick")
    with pytest.raises(TrialFailed, match="it is nonsense"):
        try_version(JOB, ROOM, command=told('{"failure": "it is nonsense"}'))


def test_a_crash_is_no_crash_here() -> None:
    with pytest.raises(TrialFailed, match="ended with -6"):
        try_version(JOB, ROOM, command=python("import os; os.abort()"))


def test_a_version_that_takes_too_much_memory_is_stopped() -> None:
    command = python("import time; kept = bytearray(b'x') * 2**27; time.sleep(600)")
    with pytest.raises(TrialFailed, match="more than the 64 megabytes"):
        try_version(JOB, 2**26, command=command)


def test_a_trial_that_never_ends_is_given_up() -> None:
    instants = iter((0.0, module.TRIAL_WITHIN_S + 1.0))
    command = python("import time; time.sleep(600)")
    with pytest.raises(TrialFailed, match="was not over"):
        try_version(JOB, ROOM, lambda: next(instants), command)


def test_the_real_process_says_what_is_wrong() -> None:
    with pytest.raises(TrialFailed, match="nowhere"):
        try_version(JOB, ROOM)


class Sound(FakeRunner):
    """A runner whose answers make sense."""

    def detections(self, batch: FakeBatch) -> list[Detections]:
        return [replace(d, scores=d.scores / np.float32(255)) for d in super().detections(batch)]


class Unsound(Sound):
    """A runner that answers nonsense at exit 2."""

    def detections(self, batch: FakeBatch) -> list[Detections]:
        found = super().detections(batch)
        return [replace(d, scores=d.scores * np.nan) for d in found] if batch.depth == 2 else found


def test_the_images_are_as_the_model_takes_them() -> None:
    for image in trial_images(FAMILY):
        assert image.shape == (96, 128, 3)
        assert image.std() > 10


def test_every_exit_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[FakeRunner] = []
    monkeypatch.setattr(module, "settle_precision", lambda _, options, __: (options, None))
    monkeypatch.setattr(module, "read_family", lambda *_: FAMILY)
    monkeypatch.setattr(module, "open_instances", lambda *_, **__: opened)
    clock = FakeClock()
    opened.append(Sound(clock))
    assert run_trial(JOB, clock) == Trial()
    ran = {name for name, _ in opened[0].log}
    assert ran >= {f"exit_{depth}" for depth in range(1, NUM_EXITS + 1)}
    opened[:] = [Unsound(clock)]
    with pytest.raises(TrialFailed, match=r"_2 answers makes no sense: a score is not in 0..1"):
        run_trial(JOB, clock)
