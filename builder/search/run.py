"""The loop of a search: ask for a batch, evaluate it, write it down, tell.

    searcher --graphs--> jobs --pool--> accuracies --reward--> journal --> searcher

Batches are synchronous and children are written in the order they were asked for, so that a journal
does not depend on how many workers there were or which was the faster. A run that was stopped asks
and tells its way through the journal, then goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from builder.config.pyramid_graphs import Graph
from builder.search.canonical import canonical_key
from builder.search.evaluators.base import Evaluator, Job
from builder.search.journal import (
    FAILED,
    JOURNAL,
    OK,
    REPEATED,
    Child,
    JournalError,
    SearchJournal,
    SearchJournalFile,
)
from builder.search.latency_table import LatencyTable
from builder.search.pool import JobResult, OpenPool, Pool, machine_and_versions, open_pool
from builder.search.rewards import Reward
from builder.search.searchers.base import Searcher
from serving.artifacts.folder_locks import only_writer

MAX_SEEDS = 3
"""Number of seeds that a graph is evaluated with; asked for more often, it is worth the mean."""


@dataclass(frozen=True, slots=True)
class Search:
    """One search: what is searched, how, and on what."""

    space: str
    searcher: str
    seed: int
    create: Callable[[], Searcher]
    """Function that returns a searcher that has been told nothing."""
    evaluator: Evaluator
    reward: Reward
    table: LatencyTable
    first_training_seed: int = 0
    """Seed that a graph is trained with first; repeats of it have the next ones."""
    max_seeds: int = MAX_SEEDS

    def describe(self) -> dict[str, Any]:
        """Return what the journal begins with."""
        return {
            "space": self.space,
            "searcher": self.searcher,
            "seed": self.seed,
            "first_training_seed": self.first_training_seed,
            "max_seeds": self.max_seeds,
            "evaluator": self.evaluator.describe(),
            "reward": self.reward.describe(),
            "latency": self.table.to_dict(),
        }


def run(
    search: Search,
    out: Path,
    num_children: int,
    workers: int = 1,
    pool: OpenPool = open_pool,
) -> tuple[Child, ...]:
    """Search until there are so many children in OUT's journal, and return all that are there.

    It goes on where the journal ends. ``pool`` opens what evaluates, for a number of workers.
    Raises JournalError, FolderBusy where another process does so, what the evaluator and the pool
    raise, and KeyboardInterrupt.
    """
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        return _run(search, out, num_children, workers, pool)


def _run(
    search: Search,
    out: Path,
    num_children: int,
    workers: int,
    pool: OpenPool,
) -> tuple[Child, ...]:
    journal = SearchJournalFile(out / JOURNAL, search.describe())
    total = max(num_children, len(journal.children))
    try:
        with (
            pool(search.evaluator, workers) as opened,
            tqdm(total=total, initial=len(journal.children), unit="child", smoothing=0.05) as bar,
        ):
            extend(search, journal, total, opened, bar)
    finally:
        journal.close()
    return tuple(journal.children)


def extend(
    search: Search, journal: SearchJournal, num_children: int, pool: Pool, bar: tqdm[Any]
) -> None:
    """Bring a journal to so many children. Raises what ``run`` raises."""
    progress = SearchProgress(search, journal, num_children)
    while jobs := progress.jobs:
        for result in pool.run(jobs):
            progress.add(result)
            bar.set_postfix(best=f"{journal.best_reward:.4f}", refresh=False)
            bar.update(len(journal.children) - bar.n)
    bar.update(len(journal.children) - bar.n)


class SearchProgress:
    """How far a search is: what is to be evaluated next, and what comes of the results.

    Results are taken in any order. Whatever is next in the order of asking is written at once.
    """

    def __init__(self, search: Search, journal: SearchJournal, num_children: int) -> None:
        """Go through ``journal``, which is to have so many children in the end.

        Raises JournalError for one that this search would not have written.
        """
        self._search, self._journal, self._num_children = search, journal, num_children
        self._searcher = search.create()
        self._start = 0
        """Index of the first child of the batch."""
        self._graphs: list[Graph] = []
        self._keys: list[str] = []
        self._jobs: list[Job | None] = []
        self.early: dict[int, JobResult] = {}
        """Results that came before those of children to be written first, by index."""
        self._ask()
        self._go_on()

    @property
    def jobs(self) -> list[Job]:
        """What is left to be evaluated of the batch, in order; nothing at the end of the search."""
        first = len(self._journal.children)
        last = min(self._start + len(self._jobs), self._num_children)
        return [
            job
            for job in self._jobs[first - self._start : last - self._start]
            if job is not None and job.index not in self.early
        ]

    def add(self, result: JobResult) -> None:
        """Take the result of a job in. One that is written already changes nothing."""
        if result.job.index >= len(self._journal.children):
            self.early[result.job.index] = result
            self._go_on()

    def _ask(self) -> None:
        """Ask for a batch, and check it against what the journal has of it."""
        children = self._journal.children
        self._graphs = self._searcher.ask()
        self._keys = [canonical_key(graph) for graph in self._graphs]
        for child, key in zip(children[self._start :], self._keys, strict=False):
            if child.key != key:
                raise JournalError(
                    f"child {child.index} of the journal is not the one that this search asks "
                    "for: it is of another version"
                )
        before = children[: self._start]
        self._jobs = _jobs(self._search, self._graphs, self._keys, before)

    def _go_on(self) -> None:
        """Write what can be written; where a batch ends, tell of it and ask for the next."""
        children = self._journal.children
        while True:
            end = self._start + len(self._graphs)
            while len(children) < min(end, self._num_children):
                if not self._write(len(children)):
                    return
            if end >= self._num_children:
                return
            self._searcher.tell([child.reward for child in children[self._start : end]])
            self._start = end
            self._ask()

    def _write(self, index: int) -> bool:
        """Write a child if its result is there, or none is needed; return whether it was."""
        number = index - self._start
        if self._jobs[number] is None:
            graph, key = self._graphs[number], self._keys[number]
            child = _repeated(self._search, index, graph, key, self._journal.children)
        elif index in self.early:
            child = evaluated(self._search, self.early.pop(index))
        else:
            return False
        self._journal.add(child)
        self._search.evaluator.forget(index)
        return True


def _jobs(
    search: Search, graphs: Sequence[Graph], keys: Sequence[str], before: Sequence[Child]
) -> list[Job | None]:
    """Return what is to be evaluated for each graph of a batch.

    It is nothing for one that has been evaluated often enough.
    """
    times = Counter(child.key for child in before if child.status != REPEATED)
    jobs: list[Job | None] = []
    for index, (graph, key) in enumerate(zip(graphs, keys, strict=True), start=len(before)):
        seed = search.first_training_seed + times[key]
        jobs.append(Job(index, graph, key, seed) if times[key] < search.max_seeds else None)
        times[key] += 1
    return jobs


def evaluated(search: Search, result: JobResult) -> Child:
    """Return the child that a result is of."""
    job, aps, problem = result.job, result.evaluation.aps, result.evaluation.problem
    times = search.table.exits(job.graph, len(aps))
    return Child(
        index=job.index,
        rows=job.graph.rows,
        key=job.key,
        training_seed=job.seed,
        status=OK if aps else FAILED,
        aps=aps,
        times=times,
        reward=search.reward(aps, times) if aps else 0.0,
        made_by={
            "seconds": round(result.seconds, 3),
            **result.where,
            **({"problem": problem} if problem else {}),
        },
    )


def _repeated(search: Search, index: int, graph: Graph, key: str, before: Sequence[Child]) -> Child:
    """Return a child that is worth what its network was on average."""
    known = [child.aps for child in before if child.key == key and child.status == OK]
    aps = tuple(sum(column) / len(column) for column in zip(*known, strict=True))
    times = search.table.exits(graph, len(aps))
    return Child(
        index=index,
        rows=graph.rows,
        key=key,
        training_seed=None,
        status=REPEATED,
        aps=aps,
        times=times,
        reward=search.reward(aps, times) if aps else 0.0,
        made_by={"seconds": 0.0, **machine_and_versions()},
    )
