"""The log of a run and its curves."""

from __future__ import annotations

import json
from pathlib import Path

from builder.training.distributed import Processes
from builder.training.training_log import LOG, TENSORBOARD, TrainingLog


def epochs(out: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (out / LOG).read_text().splitlines()]


def test_lines_without_a_checkpoint_are_taken_back(tmp_path: Path) -> None:
    training_log = TrainingLog(tmp_path, Processes(), 0, 0, False)
    for epoch in (1, 2, 3):
        training_log.write({"epoch": epoch})
    assert epochs(tmp_path) == [1, 2, 3]
    TrainingLog(tmp_path, Processes(), 2, 0, False).write({"epoch": 3})
    assert epochs(tmp_path) == [1, 2, 3]
    TrainingLog(tmp_path, Processes(), 0, 0, False).write({"epoch": 1})
    assert epochs(tmp_path) == [1]


def test_a_line_that_a_killed_process_did_not_end_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text('{"epoch": 1}\n{"epoch": 2, "los')
    TrainingLog(tmp_path, Processes(), 1, 0, False).write({"epoch": 2})
    assert epochs(tmp_path) == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == [LOG]


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    training_log = TrainingLog(tmp_path, Processes(rank=1, count=2), 0, 0, True)
    training_log.write({"epoch": 1})
    training_log.plot("loss", 1.0, 1)
    training_log.close()
    assert not list(tmp_path.iterdir())


def test_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, values in ((0, (3.0, 2.0, 1.5)), (1, (1.0, 0.5))):
        training_log = TrainingLog(tmp_path, Processes(), 0, first, True)
        for step, value in enumerate(values, start=first):
            training_log.plot("loss", value, step)
        training_log.close()
    events = EventAccumulator(str(tmp_path / TENSORBOARD))
    events.Reload()
    points = [(point.step, point.value) for point in events.Scalars("loss")]
    assert points == [(0, 3.0), (1, 1.0), (2, 0.5)], "a resumed run replaces what it repeats"
