"""The loop: what is in a journal is a function of the search, however it was run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from builder.search.evaluators.analytic import AnalyticEvaluator
from builder.search.evaluators.base import Evaluation, Job
from builder.search.journal import (
    FAILED,
    JOURNAL,
    OK,
    REPEATED,
    JournalError,
    SearchJournal,
    read_journal,
)
from builder.search.pool import JobResult, ThisProcess, evaluate_elsewhere, timed
from builder.search.run import SearchProgress, run
from builder.search.searchers.listed import Listed
from builder.search.space import SPACES
from serving.artifacts.folder_locks import FolderBusy, only_writer
from tests.builder.search.children import (
    Deadly,
    Neighbours,
    analytic_search,
    same_but_for_machine,
)

EVERY_SEARCHER = ("random", "evolution", "screened-evolution", "controller-small")


@pytest.mark.parametrize("searcher", EVERY_SEARCHER)
def test_extending_a_search_equals_a_longer_one(searcher: str, tmp_path: Path) -> None:
    """Also when it was stopped within a batch."""
    search = analytic_search(searcher)
    for count in (7, 33, 80):
        run(search, tmp_path / "extended", count)
    whole = run(search, tmp_path / "whole", 80)
    extended = read_journal(tmp_path / "extended" / JOURNAL).children
    assert len(whole) == 80
    assert same_but_for_machine(extended, whole)


def test_a_search_has_its_folder_for_itself(tmp_path: Path) -> None:
    with only_writer(tmp_path), pytest.raises(FolderBusy, match="another process writes into"):
        run(analytic_search(), tmp_path, 1)
    assert not (tmp_path / JOURNAL).exists()


def test_another_seed_is_another_search(tmp_path: Path) -> None:
    one, other = (run(analytic_search(seed=seed), tmp_path / str(seed), 10) for seed in (0, 1))
    assert not same_but_for_machine(one, other)


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_line_that_was_not_written_to_its_end_is_made_again(cut: int, tmp_path: Path) -> None:
    search = analytic_search()
    whole = run(search, tmp_path, 30)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:-cut])
    assert same_but_for_machine(run(search, tmp_path, 30), whole)
    assert same_but_for_machine(read_journal(path).children, whole)


def test_a_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    run(analytic_search(seed=0), tmp_path, 5)
    before = (tmp_path / JOURNAL).read_bytes()
    with pytest.raises(JournalError, match="is of a search with seed 0, not 1"):
        run(analytic_search(seed=1), tmp_path, 10)
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_a_journal_that_the_searcher_does_not_ask_for_is_refused(tmp_path: Path) -> None:
    search = analytic_search("random")
    run(search, tmp_path, 10)
    with pytest.raises(JournalError, match="child 0 of the journal is not the one"):
        run(replace(search, create=analytic_search("random", seed=1).create), tmp_path, 20)


@dataclass(frozen=True)
class Seeds(AnalyticEvaluator):
    """Notes what it evaluates; the graph with the key ``broken`` fails."""

    broken: str = ""
    jobs: list[tuple[str, int]] = field(default_factory=list)

    def evaluate(self, job: Job) -> Evaluation:
        self.jobs.append((job.key, job.seed))
        if job.key == self.broken:
            return Evaluation((), "the loss is no number")
        return super().evaluate(job)


def test_what_is_sampled_again_gets_the_next_seeds_and_then_the_mean(tmp_path: Path) -> None:
    evaluator = Seeds()
    space = SPACES["nas-fpn"]
    graphs = [space.decode(space.sample(np.random.default_rng(seed))) for seed in range(2)]
    search = replace(
        analytic_search(evaluator=evaluator), create=lambda: Listed([graphs[0], *graphs])
    )
    children = run(search, tmp_path, 10)  # a a b a a b a a b a
    a, b = children[0].key, children[2].key
    assert evaluator.jobs == [(a, 0), (a, 1), (b, 0), (a, 2), (b, 1), (b, 2)]
    of_a = [child for child in children if child.key == a]
    assert [child.status for child in of_a] == [OK] * 3 + [REPEATED] * 4
    assert [child.training_seed for child in of_a] == [0, 1, 2, None, None, None, None]
    mean = np.mean([child.aps for child in of_a[:3]], axis=0)
    assert np.allclose(of_a[-1].aps, mean)
    assert of_a[-1].reward == search.reward(of_a[-1].aps, of_a[-1].times)


def test_a_child_that_fails_is_worth_nothing_and_says_why(tmp_path: Path) -> None:
    key = run(analytic_search("random"), tmp_path / "first", 3)[1].key
    search = analytic_search("random", evaluator=Seeds(broken=key))
    children = run(search, tmp_path / "second", 3)
    assert [child.status for child in children] == [OK, FAILED, OK]
    assert (children[1].reward, children[1].aps) == (0.0, ())
    assert children[1].made_by["problem"] == "the loss is no number"


def test_workers_do_not_change_the_journal(tmp_path: Path) -> None:
    search = analytic_search()
    alone = run(search, tmp_path / "alone", 70)
    assert same_but_for_machine(run(search, tmp_path / "two", 70, workers=2), alone)


@pytest.mark.slow
def test_a_search_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Kills it twenty times, after as many lines as chance has it."""
    out = tmp_path / "killed"
    command = [
        *(sys.executable, "-m", "serving", "search", "run", "--evaluator", "analytic"),
        *("--children", "60", "--workers", "2", "--out", str(out)),
    ]
    random = np.random.default_rng(0)
    path = out / JOURNAL
    for _ in range(20):
        seen = path.stat().st_size if path.exists() else 0
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            more = int(random.integers(1, 2500))
            while process.poll() is None:
                if path.exists() and path.stat().st_size >= seen + more:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.001)
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    expected = run(analytic_search(), tmp_path / "whole", 60)
    assert same_but_for_machine(read_journal(path).children, expected)


def test_a_process_that_dies_is_replaced(tmp_path: Path) -> None:
    alone = run(analytic_search("random"), tmp_path / "alone", 4)
    marks = tmp_path / "marks"
    marks.mkdir()
    search = analytic_search("random", evaluator=Deadly(folder=marks, fatal=3))
    children = run(search, tmp_path / "killed", 4, workers=2)
    assert (marks / "1").exists()
    assert same_but_for_machine(children[:3], alone[:3])
    assert children[3].status == FAILED
    assert "processes died over it" in children[3].made_by["problem"]


def test_who_dies_with_its_neighbour_goes_on_by_itself(tmp_path: Path) -> None:
    """However often the neighbour's process dies, the child is worth what it is."""
    alone = run(analytic_search("random"), tmp_path / "alone", 2)
    search = analytic_search("random", evaluator=Neighbours(folder=tmp_path))
    children = run(search, tmp_path / "killed", 2, workers=2)
    assert [child.status for child in children] == [OK, FAILED]
    assert same_but_for_machine(children[:1], alone[:1])
    assert not (tmp_path / "together").exists()


class Backwards(ThisProcess):
    """A pool whose jobs end in another order than they began in."""

    def run(self, jobs: Sequence[Job]) -> Iterator[JobResult]:
        return super().run(jobs[::-1])


@pytest.mark.parametrize("searcher", EVERY_SEARCHER)
def test_the_order_in_which_jobs_end_does_not_change_the_journal(
    searcher: str, tmp_path: Path
) -> None:
    search = analytic_search(searcher)
    in_order = run(search, tmp_path / "in_order", 33)
    backwards = run(
        search, tmp_path / "backwards", 33, pool=lambda evaluator, _: Backwards(evaluator)
    )
    assert same_but_for_machine(backwards, in_order)


def test_a_result_that_is_written_already_changes_nothing(tmp_path: Path) -> None:
    search = analytic_search()
    journal = SearchJournal()
    progress = SearchProgress(search, journal, 25)
    results = []
    while jobs := progress.jobs:
        results.append(timed(search.evaluator, jobs[0]))
        for result in results:
            progress.add(result)
    assert same_but_for_machine(journal.children, run(search, tmp_path, 25))


def test_a_journal_says_where_each_child_was_evaluated(tmp_path: Path) -> None:
    class Elsewhere(ThisProcess):
        def run(self, jobs: Sequence[Job]) -> Iterator[JobResult]:
            for result in super().run(jobs):
                yield replace(result, where={"machine": f"number {result.job.index}"})

    run(analytic_search(), tmp_path, 3, pool=lambda evaluator, _: Elsewhere(evaluator))
    children = read_journal(tmp_path / JOURNAL).children
    assert [child.made_by["machine"] for child in children] == ["number 0", "number 1", "number 2"]


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_kept_of_a_child_is_removed_where_nobody_else_sees_it(
    shared: bool, tmp_path: Path
) -> None:
    @dataclass(frozen=True)
    class Keeping(AnalyticEvaluator):
        kept: set[int] = field(default_factory=set)

        def evaluate(self, job: Job) -> Evaluation:
            self.kept.add(job.index)
            raise KeyboardInterrupt

        def forget(self, index: int) -> None:
            self.kept.remove(index)

    journal = tmp_path / JOURNAL
    if shared:
        journal.touch()
    evaluator = Keeping()
    (job, *_) = SearchProgress(analytic_search(), SearchJournal(), 3).jobs
    with pytest.raises(KeyboardInterrupt):
        evaluate_elsewhere(evaluator, job, journal)
    assert evaluator.kept == ({job.index} if shared else set())
