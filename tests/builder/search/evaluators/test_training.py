"""The evaluator that trains: what it measures, and that a killed child goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.search.canonical import canonical_key
from builder.search.evaluators.base import Evaluation, Job
from builder.search.evaluators.training import TrainingEvaluator, held_out_digest
from builder.search.journal import (
    JOURNAL,
    JournalError,
    SearchJournalFile,
)
from builder.search.run import run
from builder.search.space import SPACES
from builder.training import loop
from builder.training.epoch import Diverged, Run
from tests.builder.search.children import PROXY, analytic_search, same_but_for_machine
from tests.builder.tiny import TINY


def a_job(seed: int = 0) -> Job:
    space = SPACES["nas-fpn"]
    graph = space.decode(space.sample(np.random.default_rng(7)))
    return Job(3, graph, canonical_key(graph), seed)


def evaluator(data: Path, folder: Path) -> TrainingEvaluator:
    return TrainingEvaluator(PROXY, data, folder, held_out_digest(PROXY, data))


def test_a_recipe_that_holds_out_nothing_is_refused(bccd: Path) -> None:
    with pytest.raises(ValueError, match="measures on no images"):
        held_out_digest(TINY, bccd)


def test_the_digest_is_of_the_images(bccd: Path) -> None:
    before = held_out_digest(PROXY, bccd)
    assert held_out_digest(PROXY, bccd) == before
    names = bccd / "ImageSets/Main/val.txt"
    names.write_text("".join(names.read_text().splitlines(True)[:-2]))
    assert held_out_digest(PROXY, bccd) != before


@pytest.mark.parametrize("part", ["detector", "train"])
def test_a_journal_from_before_a_field_goes_on_with_its_default(
    part: str, bccd: Path, tmp_path: Path
) -> None:
    search = analytic_search("random", evaluator=evaluator(bccd, tmp_path)).describe()
    record = getattr(PROXY, part)
    now = record.to_dict()
    field = next(f for f in fields(record) if f.default and now[f.name] == f.default)
    older = json.loads(json.dumps(search))
    del older["evaluator"][part][field.name]
    path = tmp_path / JOURNAL
    path.write_text(json.dumps({"format": 1, "search": older}) + "\n")
    SearchJournalFile(path, search).close()
    older["evaluator"][part][field.name] = "otherwise"
    path.write_text(json.dumps({"format": 1, "search": older}) + "\n")
    with pytest.raises(JournalError, match="is of a search with evaluator"):
        SearchJournalFile(path, search)


@pytest.mark.slow
def test_a_child_has_an_accuracy_at_every_exit(bccd: Path, tmp_path: Path) -> None:
    trains = evaluator(bccd, tmp_path / "one")
    found = trains.evaluate(a_job())
    assert len(found.aps) == PROXY.detector.num_exits == trains.num_exits
    assert all(0 <= ap <= 1 for ap in found.aps)
    assert evaluator(bccd, tmp_path / "two").evaluate(a_job()) == found
    trains.forget(3)
    assert not list((tmp_path / "one/children").iterdir())


@pytest.mark.slow
def test_a_killed_child_goes_on_from_its_last_epoch(
    bccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluator(bccd, tmp_path / "whole").evaluate(a_job())
    stopped = evaluator(bccd, tmp_path / "stopped")
    epochs: list[int] = []
    train_epoch: Any = loop.train_epoch

    def killed_in_the_second(run: Run, *more: object) -> object:
        if run.epoch == 1 and epochs == [0]:
            epochs.append(run.epoch)
            raise KeyboardInterrupt
        epochs.append(run.epoch)
        return train_epoch(run, *more)

    monkeypatch.setattr(loop, "train_epoch", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        stopped.evaluate(a_job())
    assert stopped.evaluate(a_job()) == expected
    assert epochs == [0, 1, 1]


def test_a_child_that_diverges_has_failed(
    bccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object) -> None:
        raise Diverged("the loss is not finite")

    monkeypatch.setattr(loop, "train_epoch", diverge)
    found = evaluator(bccd, tmp_path).evaluate(a_job())
    assert (found.aps, found.problem) == ((), "the loss is not finite")


@dataclass(frozen=True)
class Killed(TrainingEvaluator):
    """Its process is killed in the second epoch of the second child, the first time."""

    marks: Path = Path()

    def evaluate(self, job: Job) -> Evaluation:
        train_epoch: Any = loop.train_epoch

        def begun(run: Run, *more: Any) -> Any:
            mark = self.marks / f"{job.index}-{run.epoch}"
            with mark.open("a") as file:
                file.write("x")
            if mark.name == "1-1" and mark.stat().st_size == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return train_epoch(run, *more)

        with pytest.MonkeyPatch.context() as patch:  # its process may evaluate others after it
            patch.setattr(loop, "train_epoch", begun)
            return super().evaluate(job)


@pytest.mark.slow
def test_a_child_whose_worker_is_killed_is_finished_from_its_checkpoint(
    bccd: Path, tmp_path: Path
) -> None:
    whole = run(
        analytic_search("random", evaluator=evaluator(bccd, tmp_path / "whole")),
        tmp_path / "whole",
        3,
    )
    marks = tmp_path / "marks"
    marks.mkdir()
    killed = Killed(PROXY, bccd, tmp_path / "out", held_out_digest(PROXY, bccd), marks=marks)
    search = analytic_search("random", evaluator=killed)
    found = run(search, tmp_path / "out", 3, workers=2)
    assert same_but_for_machine(found, whole)
    begun = {mark.name: mark.stat().st_size for mark in marks.iterdir()}
    assert (begun["1-0"], begun["1-1"]) == (1, 2)


@pytest.mark.slow
def test_a_search_that_trains_is_the_same_with_two_workers(bccd: Path, tmp_path: Path) -> None:
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        search = analytic_search("random", evaluator=evaluator(bccd, out))
        found.append(run(search, out, 3, workers))
        assert not list((out / "children").iterdir())
        shutil.rmtree(out)
    assert same_but_for_machine(*found)
