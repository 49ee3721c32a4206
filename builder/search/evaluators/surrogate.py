"""Accuracies foretold from those of other graphs: a search of thousands in minutes.

What comes of it is an extrapolation, and reports say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from builder.search.evaluators.base import Evaluation, Job
from builder.search.evaluators.tabular import successes
from builder.search.features import features
from builder.search.journal import Child, JournalSet
from builder.search.regression import Regression
from builder.search.statistics import kendall
from serving.core.command_errors import CommandError

MIN_GRAPHS = 20
MIN_KENDALL = 0.5
"""Least Kendall's tau between what was measured and what the other graphs foretell of it."""


class PoorSurrogate(CommandError, ValueError):
    """Error of measured graphs that do not tell of others."""


class SurrogateEvaluator:
    """An evaluator that foretells AP by a regression on the graphs of some journals.

    It has the noise of what the regression could not foretell.
    """

    is_light = True

    def __init__(self, children: Sequence[Child], name: str, min_kendall: float) -> None:
        """Fit the regression. Raises PoorSurrogate."""
        graphs = successes(children)
        if len(graphs) < MIN_GRAPHS:
            raise PoorSurrogate(f"{len(graphs)} graphs are too few: {MIN_GRAPHS} at least")
        inputs = np.array([features(rows[0].graph) for rows in graphs.values()])
        outputs = np.array(
            [np.mean([child.aps for child in rows], axis=0) for rows in graphs.values()]
        )
        self._regression = Regression(inputs, outputs)
        missed = outputs - self._regression.foretold
        self._noise = np.linalg.cholesky(
            np.atleast_2d(np.cov(missed.T)) + 1e-12 * np.eye(outputs.shape[1])
        )
        self._name = name
        self.num_exits = outputs.shape[1]
        self.kendall = kendall(
            outputs.mean(axis=1).tolist(), self._regression.foretold.mean(axis=1).tolist()
        )
        if self.kendall < min_kendall:
            raise PoorSurrogate(
                f"from the others, the {len(graphs)} graphs are foretold with a Kendall's tau of "
                f"{self.kendall:.2f}: less than {min_kendall}"
            )

    @classmethod
    def of(cls, journals: JournalSet, min_kendall: float = MIN_KENDALL) -> Self:
        """Return one that is fitted to some journals. Raises PoorSurrogate."""
        return cls(journals.children, journals.digest, min_kendall)

    def describe(self) -> dict[str, Any]:
        """Return the digest of the journals, and how well it foretells."""
        return {"name": "surrogate", "digest": self._name, "kendall": round(self.kendall, 4)}

    def evaluate(self, job: Job) -> Evaluation:
        """Return what is foretold, with the noise of the seed."""
        (foretold,) = self._regression.predict(features(job.graph)[None])
        digest = hashlib.sha256(f"{job.key}/{job.seed}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        aps = foretold + self._noise @ random.normal(size=self.num_exits)
        return Evaluation(tuple(aps.tolist()))

    def forget(self, index: int) -> None:
        """Do nothing: nothing was kept."""
