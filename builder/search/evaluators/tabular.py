"""Accuracies that were measured before: the journal of an exhaustive search, looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from builder.config.pyramid_graphs import Graph
from builder.search.canonical import canonical_key
from builder.search.evaluators.base import Evaluation, Job
from builder.search.journal import OK, REPEATED, Child, JournalSet
from serving.core.command_errors import CommandError


class NotInTable(CommandError, ValueError):
    """Error of a table of results that lacks a graph."""


class TabularEvaluator:
    """An evaluator that looks AP up in journals.

    A graph that was evaluated with several seeds gives them in turn.
    """

    is_light = True

    def __init__(
        self,
        results: Mapping[str, Sequence[tuple[float, ...]]],
        name: str,
        *,
        is_partial: bool = False,
    ) -> None:
        """Take results: the key of each graph -> AP by exit, with each seed.

        Of a partial table, graphs that it lacks fail; of a whole one, they are an error.
        """
        self._results, self._name, self._is_partial = results, name, is_partial

    @classmethod
    def of(cls, journals: JournalSet, *, is_partial: bool = False) -> Self:
        """Return one of some journals. Raises NotInTable."""
        results: dict[str, list[tuple[float, ...]]] = {}
        for child in journals.children:
            if child.status != REPEATED:
                results.setdefault(child.key, []).append(child.aps if child.status == OK else ())
        if not any(map(any, results.values())):
            raise NotInTable(f"no child in {', '.join(map(str, journals.paths))} was evaluated")
        return cls(results, journals.digest, is_partial=is_partial)

    @property
    def num_exits(self) -> int:
        """Number of exits of the detectors in the table."""
        return max(len(aps) for rows in self._results.values() for aps in rows)

    def knows(self, graph: Graph) -> bool:
        """Return whether the table has a graph."""
        return canonical_key(graph) in self._results

    def truth(self, graph: Graph) -> tuple[float, ...]:
        """Return AP by exit, the mean over seeds; 0 of what always failed. Raises NotInTable."""
        rows = [row for row in self._rows(canonical_key(graph)) if row]
        if not rows:
            return (0.0,) * self.num_exits
        return tuple(sum(column) / len(column) for column in zip(*rows, strict=True))

    def describe(self) -> dict[str, Any]:
        """Return the digest of the table."""
        partial = {"partial": True} if self._is_partial else {}
        return {"name": "table", "digest": self._name, **partial}

    def evaluate(self, job: Job) -> Evaluation:
        """Return what the table has. Raises NotInTable."""
        rows = self._rows(job.key) or [()]
        aps = rows[job.seed % len(rows)]
        return Evaluation(
            aps, "" if aps else "it is not in the table, or failed when that was made"
        )

    def _rows(self, key: str) -> Sequence[tuple[float, ...]]:
        if key not in self._results and not self._is_partial:
            raise NotInTable(
                f"the table has no graph with the key {key}: it is of another space, or partial"
            )
        return self._results.get(key, ())

    def forget(self, index: int) -> None:
        """Do nothing: nothing was kept."""


def successes(children: Sequence[Child]) -> dict[str, list[Child]]:
    """Return key -> the children with it that were evaluated, with whatever seed."""
    found: dict[str, list[Child]] = {}
    for child in children:
        if child.status == OK:
            found.setdefault(child.key, []).append(child)
    return found
