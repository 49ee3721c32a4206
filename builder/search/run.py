"""The loop of a search: ask for a batch, evaluate it, write it down, tell.

    searcher --graphs--> jobs --pool--> accuracies --reward--> journal --> searcher

Batches are synchronous and children are written in the order they were asked for, so that a journal
does not depend on how many workers there were or which was the faster. A run that was stopped asks
and tells its way through the journal, then goes on.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
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
from builder.search.pool import JobResult, Pool, open_pool
from builder.search.rewards import Reward
from builder.search.searchers.base import Searcher
from reporting.machine import machine

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


def run(search: Search, out: Path, num_children: int, workers: int = 1) -> tuple[Child, ...]:
    """Search until there are so many children in OUT's journal, and return all that are there.

    It goes on where the journal ends. Raises JournalError, what the evaluator raises, and
    KeyboardInterrupt.
    """
    journal = SearchJournalFile(out / JOURNAL, search.describe())
    total = max(num_children, len(journal.children))
    try:
        with (
            open_pool(search.evaluator, workers) as pool,
            tqdm(total=total, initial=len(journal.children), unit="child", smoothing=0.05) as bar,
        ):
            go_on(search, journal, total, pool, bar)
    finally:
        journal.close()
    return tuple(journal.children)


def go_on(
    search: Search, journal: SearchJournal, num_children: int, pool: Pool, bar: tqdm[Any]
) -> None:
    """Bring a journal to so many children. Raises what ``run`` raises."""
    searcher = search.create()
    told = 0
    while told < num_children:
        graphs = searcher.ask()
        _evaluate(search, graphs[: num_children - told], told, journal, pool, bar)
        batch = journal.children[told : told + len(graphs)]
        if len(batch) == len(graphs):
            searcher.tell([child.reward for child in batch])
        told += len(batch)


def _evaluate(
    search: Search,
    graphs: Sequence[Graph],
    start: int,
    journal: SearchJournal,
    pool: Pool,
    bar: tqdm[Any],
) -> None:
    """Write those children of the batch that begins at ``start`` which are not in the journal."""
    keys = [canonical_key(graph) for graph in graphs]
    for child, key in zip(journal.children[start:], keys, strict=False):
        if child.key != key:
            raise JournalError(
                f"child {child.index} of the journal is not the one that this search asks for: it "
                "is of another version"
            )
    jobs = _jobs(search, graphs, keys, journal.children[:start])
    written = len(journal.children) - start
    results = pool.run([job for job in jobs[written:] if job is not None])
    early: dict[int, JobResult] = {}
    for graph, key, job in list(zip(graphs, keys, jobs, strict=True))[written:]:
        while job is not None and job.index not in early:
            result = next(results)
            early[result.job.index] = result
        index = len(journal.children)
        if job is None:
            child = _repeated(search, index, graph, key, journal.children)
        else:
            child = _evaluated(search, early.pop(index))
        journal.add(child)
        search.evaluator.forget(index)
        bar.set_postfix(best=f"{journal.best_reward:.4f}", refresh=False)
        bar.update()


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


def _evaluated(search: Search, result: JobResult) -> Child:
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
            **_versions(),
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
        made_by={"seconds": 0.0, **_versions()},
    )


@cache
def _versions() -> dict[str, str]:
    names = ("punctual", "torch", "numpy")
    return {"machine": machine(), "python": platform.python_version()} | {
        name: version(name) for name in names
    }
