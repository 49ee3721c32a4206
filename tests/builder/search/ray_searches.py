"""Searches on Ray, each in a process of its own: its daemons and its warnings are not for pytest.

python -m tests.builder.search.ray_searches NAME FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from builder.search.evaluators.analytic import AnalyticEvaluator
from builder.search.evaluators.base import Evaluation, Job
from builder.search.evaluators.training import TrainingEvaluator
from builder.search.journal import JOURNAL
from builder.search.pool import OpenPool
from builder.search.run import Search, run
from builder.search.searchers.listed import Listed
from builder.search.space import SPACES
from builder.training import loop
from builder.training.epoch import Run
from tests.builder.search.children import PROXY, Deadly, analytic_search

NUM_TRIALS, NUM_CHILDREN = 7, 8
"""Of the experiment with Tune; a child that is a graph's fourth needs no trial."""


def deadly(folder: Path) -> Search:
    """A search that loses two workers."""
    (folder / "marks").mkdir()
    return analytic_search("random", evaluator=Deadly(folder=folder / "marks", fatal=3))


@dataclass(frozen=True)
class KilledOnce(TrainingEvaluator):
    """Notes the epochs that are begun; its process is killed in the first child's second, once."""

    @property
    def epochs(self) -> Path:
        return self.folder / "epochs"

    def evaluate(self, job: Job) -> Evaluation:
        train_epoch = loop.train_epoch

        def noted(begun: Run, *more: object) -> object:
            is_first = not self.epochs.exists() or "1" not in self.epochs.read_text()
            with self.epochs.open("a") as file:
                file.write(f"{begun.epoch}\n")
            if begun.epoch == 1 and is_first:
                os.kill(os.getpid(), signal.SIGKILL)
            return train_epoch(begun, *more)  # type: ignore[arg-type]

        loop.train_epoch = noted  # type: ignore[assignment]
        try:
            return TrainingEvaluator.evaluate(self, job)
        finally:
            loop.train_epoch = train_epoch


def trained(folder: Path) -> Search:
    """A search that trains a child, on the data set beside the folder."""
    evaluator = KilledOnce(PROXY, folder.parent / "bccd", folder, "a digest")
    return analytic_search("random", evaluator=evaluator)


def on_ray(name: str, folder: Path) -> None:
    """Search with two workers of Ray."""
    from builder.search.ray_pool import RayPool

    pool: OpenPool = partial(RayPool, journal=folder / JOURNAL)
    create, count = POOLED[name]
    run(create(folder), folder, count, 2, pool)


POOLED: dict[str, tuple[Callable[[Path], Search], int]] = {
    "deadly": (deadly, 4),
    "trained": (trained, 1),
}
"""Name -> the search in a folder, and its number of children."""


@dataclass(frozen=True)
class Interrupting(AnalyticEvaluator):
    """Interrupts the process that searches, once, when the fourth child and the fifth have begun;
    and the fourth does not end."""

    folder: Path = Path()
    driver: int = 0

    def evaluate(self, job: Job) -> Evaluation:
        (self.folder / str(job.index)).touch()
        interrupted = self.folder / "interrupted"
        if job.index == 3 and not interrupted.exists():
            while not (self.folder / "4").exists():
                time.sleep(0.01)
            interrupted.touch()
            os.kill(self.driver, signal.SIGINT)
            time.sleep(3600)
        return super().evaluate(job)


def tuned_search(evaluator: AnalyticEvaluator) -> Search:
    """A search in batches of three, in which one graph is asked for four times."""
    space = SPACES["nas-fpn"]
    a, b, c = (space.decode(space.sample(np.random.default_rng(seed))) for seed in range(3))
    create = partial(Listed, [a, a, b, c], batch_size=3)
    return replace(analytic_search(evaluator=evaluator), create=create)


def on_tune(name: str, folder: Path) -> None:
    """Search as an experiment of Tune, from its beginning or from where it was interrupted."""
    import ray
    from ray import tune

    from builder.search.ray_pool import OBJECT_STORE_BYTES
    from builder.search.ray_tune import TuneSearcher, trainable

    ray.init(
        num_cpus=2,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=os.environ["TMPDIR"],
    )
    marks = folder / "marks"
    marks.mkdir(exist_ok=True)
    search = tuned_search(Interrupting(folder=marks, driver=os.getpid()))
    experiment = folder / "experiment"
    if name == "tune":
        tuner = tune.Tuner(
            trainable(search, folder),
            tune_config=tune.TuneConfig(
                search_alg=TuneSearcher(search, folder, NUM_CHILDREN),
                num_samples=NUM_CHILDREN,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name=experiment.name, storage_path=str(folder), verbose=0),
        )
    else:
        tuner = tune.Tuner.restore(str(experiment), trainable(search, folder))
    results = tuner.fit()
    print(f"{len(results)} trials, {results.num_errors} errors")
    ray.shutdown()


if __name__ == "__main__":
    _, wanted, where = sys.argv
    (on_ray if wanted in POOLED else on_tune)(wanted, Path(where))
