"""A search as the search algorithm of a Ray Tune experiment.

    search = Search(...)
    searcher = TuneSearcher(search, out, num_children=300)
    tuner = tune.Tuner(
        trainable(search, out),
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=300),
        run_config=tune.RunConfig(failure_config=tune.FailureConfig(max_failures=2), ...),
    )
    tuner.fit()

A trial is a child. The journal in ``out`` is the one that ``builder.search.run`` writes, and all
there is of the search: what Tune keeps of it is which trial is which child. Trials wait where a
batch has to end first, and a graph that has been evaluated often enough needs none, so there may be
fewer than samples were asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from builder.config.pyramid_graphs import Graph
from builder.search.evaluators.base import Evaluation, Job
from builder.search.journal import JOURNAL, SearchJournalFile, rows_of
from builder.search.pool import JobResult, evaluate_elsewhere, machine_and_versions
from builder.search.run import Search, SearchProgress, evaluated

METRIC = "reward"
"""Name of what trials report their worth as."""


class TuneSearcher(Searcher):
    """A search that proposes the configurations of trials of ``trainable``."""

    def __init__(self, search: Search, out: Path, num_children: int) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._search, self._out, self._num_children = search, out.resolve(), num_children
        self._children_of: dict[str, int] = {}
        """Indices of the children that are being evaluated, by trial."""
        self._opened: SearchProgress | None = None

    @property
    def _progress(self) -> SearchProgress:
        """How far the search is, by its journal. Raises JournalError and OSError."""
        if self._opened is None:
            journal = SearchJournalFile(self._out / JOURNAL, self._search.describe())
            self._opened = SearchProgress(self._search, journal, self._num_children)
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        """Return what Tune writes of it, without an open file."""
        return {**self.__dict__, "_opened": None}

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of a trial, None if there is none yet, or FINISHED."""
        jobs = self._progress.jobs
        if not jobs:
            return Searcher.FINISHED
        asked = set(self._children_of.values())
        job = next((job for job in jobs if job.index not in asked), None)
        if job is None:
            return None
        self._children_of[trial_id] = job.index
        return {"child": job.index, "rows": job.graph.rows, "key": job.key, "seed": job.seed}

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Write what a trial found. One that failed is a child that failed."""
        index = self._children_of.pop(trial_id, None)
        # A child is in the journal already if Tune is back at a time before it was written.
        job = next((job for job in self._progress.jobs if job.index == index), None)
        if job is None:
            return
        if error or result is None:
            found = JobResult(job, Evaluation((), "its trial failed"), 0.0, machine_and_versions())
        else:
            evaluation = Evaluation(tuple(result["aps"]), result["problem"])
            found = JobResult(job, evaluation, result["seconds"], dict(result["where"]))
        self._progress.add(found)

    def save(self, checkpoint_path: str) -> None:
        """Write which trial is which child, and what is waiting to be written to the journal."""
        early = {
            index: {**asdict(result.evaluation), "seconds": result.seconds, "where": result.where}
            for index, result in self._progress.early.items()
        }
        state = {"trials": self._children_of, "early": early}
        Path(checkpoint_path).write_text(json.dumps(state))

    def restore(self, checkpoint_path: str) -> None:
        """Go on from what ``save`` wrote, and from the journal."""
        state = json.loads(Path(checkpoint_path).read_text())
        self._children_of = state["trials"]
        jobs = {str(job.index): job for job in self._progress.jobs}
        for index in jobs.keys() & state["early"].keys():
            of = state["early"][index]
            evaluation = Evaluation(tuple(of["aps"]), of["problem"])
            self._progress.add(JobResult(jobs[index], evaluation, of["seconds"], of["where"]))


def trainable(search: Search, out: Path) -> Callable[[Mapping[str, Any]], None]:
    """Return what Tune runs in a trial: it evaluates one child."""
    journal = out.resolve() / JOURNAL

    def evaluate_child(config: Mapping[str, Any]) -> None:
        graph = Graph.from_rows(rows_of(config["rows"]))
        job = Job(config["child"], graph, config["key"], config["seed"])
        result = evaluate_elsewhere(search.evaluator, job, journal)
        tune.report(
            {
                METRIC: evaluated(search, result).reward,
                **asdict(result.evaluation),
                "seconds": result.seconds,
                "where": [*result.where.items()],  # Tune would take a dict apart
            }
        )

    return evaluate_child
