"""Times of the stacks of several graphs, round by round, and the file that keeps them.

They are kept whole: a latency table can be fitted to them anew, and two graphs can be compared
within the same rounds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from builder.config.pyramid_graphs import Graph
from builder.config.rules import MAPPING
from builder.config.user_files import read_text
from builder.search.canonical import canonical_key
from builder.search.journal import rows_of
from builder.search.latency_table import MeasuredStack
from builder.search.statistics import BootstrapInterval, bootstrap, kendall
from serving.core.command_errors import CommandError

FORMAT = 1
NUM_EXITS = 2
"""Number of exits of the detectors that are measured: all stacks take the same."""
QUANTILE = 0.05
"""Quantile of a part's times that stands for it: about what it takes while the machine does nothing
else. Graphs differ by a few percent, and neighbours move a median by more."""
DIGITS = 4
MAX_MS = 1e9
"""Bound on the milliseconds that a part takes: more is no measurement."""


@dataclass(frozen=True)
class StackRounds:
    """Milliseconds of a detector's parts with several graphs."""

    graphs: tuple[Graph, ...]
    ms: NDArray[np.float64]
    """Times, (graphs, instances, rounds, 3): of stem, of one stack, and of the head."""
    made_of: Mapping[str, Any]
    """Command, machine and date, as JSON types."""

    @property
    def instance_stacks(self) -> NDArray[np.float64]:
        """What a stack of each instance of each graph takes, (instances, graphs)."""
        return np.quantile(self.ms[..., 1], QUANTILE, axis=-1).T

    def repeats_with(self) -> float:
        """Return Kendall's tau between two measurements of the same graphs.

        Each is half of the instances; of one instance, half of the rounds. Nothing that foretells
        graphs can agree much better with what is measured.
        """
        count = self.ms.shape[1]
        if count > 1:
            of_instances = self.instance_stacks
            halves = [of_instances[: count // 2].mean(axis=0), of_instances[count // 2 :].mean(0)]
        else:
            halves = [
                np.quantile(self.ms[:, 0, start::2, 1], QUANTILE, axis=-1) for start in range(2)
            ]
        return kendall(*halves)

    def stacks(self) -> list[MeasuredStack]:
        """Return the ``QUANTILE`` of the times of each graph's parts, the mean of its instances."""
        parts = np.quantile(self.ms, QUANTILE, axis=2).mean(axis=1)  # [graph][stem, stack, head]
        return [
            MeasuredStack(graph, *row)
            for graph, row in zip(self.graphs, parts.tolist(), strict=True)
        ]

    def place_of(self, key: str) -> int:
        """Return where a graph is. Raises CommandError for one that was not measured."""
        for place, graph in enumerate(self.graphs):
            if canonical_key(graph) == key:
                return place
        raise CommandError(f"the graph with the key {key} was not measured")

    @property
    def stem(self) -> float:
        """Milliseconds of the stem, which all graphs have in common."""
        return float(np.median([each.stem for each in self.stacks()]))

    @property
    def head(self) -> float:
        """Milliseconds of the head, which all graphs have in common."""
        return float(np.median([each.head for each in self.stacks()]))

    def exits(self, key: str, num_exits: int) -> tuple[float, ...]:
        """Return the milliseconds to every exit. Raises CommandError."""
        stack = self.stacks()[self.place_of(key)].stack
        return tuple(self.stem + depth * stack + self.head for depth in range(1, num_exits + 1))

    def ratio(self, key: str, other: str, num_exits: int) -> BootstrapInterval:
        """Return the time to the last exit in that of another graph: the median over rounds.

        Raises CommandError.
        """
        way = self.ms[..., 0] + num_exits * self.ms[..., 1] + self.ms[..., 2]
        of_rounds = way.mean(axis=1)
        ratios = of_rounds[self.place_of(key)] / of_rounds[self.place_of(other)]
        return bootstrap(ratios, lambda drawn: np.median(drawn, axis=-1), resamples=2000)

    def to_json(self) -> str:
        """Return the text that ``read`` takes."""
        graphs = [
            {"rows": graph.rows, "ms": ms.round(DIGITS).tolist()}
            for graph, ms in zip(self.graphs, self.ms, strict=True)
        ]
        data = {"format": FORMAT, "made_of": self.made_of, "graphs": graphs}
        return json.dumps(data, separators=(",", ":")) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what a file holds. Raises CommandError, and OSError."""
        try:
            data = json.loads(read_text(path))
            if data["format"] != FORMAT:
                raise ValueError("it is of another version")
            graphs = tuple(Graph.from_rows(rows_of(each["rows"])) for each in data["graphs"])
            ms = np.array([each["ms"] for each in data["graphs"]], dtype=np.float64)
            if ms.ndim != 4 or ms.shape[3] != 3 or not ms.size:
                raise ValueError("times are not by instance, round and part")
            if not ((ms > 0) & (ms < MAX_MS)).all():
                raise ValueError(f"a time is no number of milliseconds from 0 to {MAX_MS:g}")
            if not MAPPING.holds(data["made_of"]):
                raise ValueError("it does not say what it is made of")
            return cls(graphs, ms, data["made_of"])
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise CommandError(f"{path} is no file of measured stacks: {error}") from error
