"""How old what a camera knows is, and what a run's figures are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from loadtest.studies.cameras.frames import GRID_S, JITTER, End, Outcome, Shot, figures, shots
from loadtest.studies.cameras.frames import ages_s as ages
from loadtest.studies.cameras.report import Report, write


def answered(camera: int, taken_s: float, ended_s: float, end: End = End.IN_TIME) -> Outcome:
    return Outcome(Shot(camera, taken_s), end, ended_s, "64x48/1", 0.5)


def superseded(camera: int, taken_s: float, ended_s: float) -> Outcome:
    return Outcome(Shot(camera, taken_s), End.SUPERSEDED, ended_s)


def test_what_is_known_grows_old_until_a_newer_answer_comes() -> None:
    found = ages([answered(0, 0.0, 0.1), answered(0, 0.2, 0.4)], 0.5)
    assert len(found) == pytest.approx(0.5 / GRID_S, abs=1)
    assert found.max() == pytest.approx(0.4, abs=2 * GRID_S)  # just before the second
    assert found[-1] == pytest.approx(0.3, abs=2 * GRID_S)


def test_an_answer_that_is_overtaken_tells_nothing() -> None:
    newer_first = [answered(0, 0.0, 0.3), answered(0, 0.2, 0.25)]
    assert ages(newer_first, 0.5)[-1] == pytest.approx(0.3, abs=2 * GRID_S)


def test_who_is_never_answered_knows_what_it_knew() -> None:
    assert ages([superseded(0, 0.0, 0.1)], 0.5)[-1] == pytest.approx(0.5, abs=2 * GRID_S)


def test_cameras_take_frames_at_their_rate() -> None:
    taken = shots(3, 5.0, 4.0, np.random.default_rng(1))
    assert [shot.taken_s for shot in taken] == sorted(shot.taken_s for shot in taken)
    for camera in range(3):
        times = np.array([shot.taken_s for shot in taken if shot.camera == camera])
        assert len(times) == 20
        assert np.all(np.abs(np.diff(times) - 0.2) <= 2 * JITTER * 0.2 + 1e-9)
        assert np.all((times >= 0) & (times <= 4.0))


def test_figures_count_each_frame_once_and_can_be_written(tmp_path: Path) -> None:
    outcomes = [
        answered(0, 0.0, 0.1),
        answered(0, 0.2, 0.3),
        answered(1, 0.0, 0.4, End.LATE),
        superseded(1, 0.2, 0.3),
    ]
    run = figures("streams", 1.0, outcomes, 2, 0.5)
    assert (run.num_frames, run.num(End.IN_TIME), run.num(End.SUPERSEDED)) == (4, 2, 1)
    assert run.late_share == pytest.approx(1 / 3)
    assert run.answers == (0, 2)
    assert run.worst_age_p99_s == max(camera.age_p99_s for camera in run.cameras)
    report = Report("machine", "2026-01-01", "cells", {"seed": 1}, (run,), ())
    path = write(report, tmp_path)
    assert "| 1 | 2 | streams |" in path.read_text()
    written = json.loads(path.with_suffix(".json").read_text())
    assert written["simulated"] == json.loads(json.dumps([asdict(run)]))
