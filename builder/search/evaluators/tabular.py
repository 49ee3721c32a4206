"""Accuracies that were measured before: the journal of an exhaustive search, looked up."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from builder.config.pyramid_graphs import Graph
from builder.search.canonical import canonical_key
from builder.search.evaluators.base import Evaluation, Job
from builder.search.journal import OK, REPEATED, Child, read_journal
from serving.core.command_errors import CommandError


class NotInTable(CommandError, ValueError):
    """Error of a table of results that lacks a graph."""


class TabularEvaluator:
    """An evaluator that looks AP up in journals.

    A graph that was evaluated with several seeds gives them in turn.
    """

    is_light = True

    def __init__(self, results: Mapping[str, Sequence[tuple[float, ...]]], name: str) -> None:
        """Take results: the key of each graph -> AP by exit, with each seed."""
        self._results, self._name = results, name

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Self:
        """Return one of some journals. Raises JournalError, NotInTable and OSError."""
        results: dict[str, list[tuple[float, ...]]] = {}
        digest = hashlib.sha256()
        for path in paths:
            digest.update(path.read_bytes())
            for child in read_journal(path).children:
                if child.status != REPEATED:
                    results.setdefault(child.key, []).append(
                        child.aps if child.status == OK else ()
                    )
        if not results:
            raise NotInTable(f"there is nothing in {', '.join(map(str, paths))}")
        return cls(results, digest.hexdigest())

    @property
    def num_exits(self) -> int:
        """Number of exits of the detectors in the table."""
        return max(len(aps) for rows in self._results.values() for aps in rows)

    def truth(self, graph: Graph) -> tuple[float, ...]:
        """Return AP by exit, the mean over seeds; 0 of what always failed. Raises NotInTable."""
        rows = [row for row in self._rows(canonical_key(graph)) if row]
        if not rows:
            return (0.0,) * self.num_exits
        return tuple(sum(column) / len(column) for column in zip(*rows, strict=True))

    def describe(self) -> dict[str, Any]:
        """Return the digest of the table."""
        return {"name": "table", "digest": self._name}

    def evaluate(self, job: Job) -> Evaluation:
        """Return what the table has. Raises NotInTable."""
        rows = self._rows(job.key)
        aps = rows[job.seed % len(rows)]
        return Evaluation(aps, "" if aps else "it failed when the table was made")

    def _rows(self, key: str) -> Sequence[tuple[float, ...]]:
        if key not in self._results:
            raise NotInTable(f"the table has no graph with the key {key}: it is of another space")
        return self._results[key]

    def forget(self, index: int) -> None:
        """Do nothing: nothing was kept."""


def successes(children: Sequence[Child]) -> dict[str, list[Child]]:
    """Return key -> the children with it that were evaluated, with whatever seed."""
    found: dict[str, list[Child]] = {}
    for child in children:
        if child.status == OK:
            found.setdefault(child.key, []).append(child)
    return found
