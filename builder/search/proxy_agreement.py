"""How well one way of training children foretells another: do they order graphs alike?

A search goes by short trainings of small detectors. Whether its order is that of longer ones shows
in graphs that were trained both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.search.evaluators.tabular import successes
from builder.search.journal import Child, Contents, JournalError
from builder.search.statistics import BootstrapInterval, bootstrap, rank_agreement
from reporting import markdown

MIN_IN_COMMON = 5
"""Fewest graphs in common whose order tells anything."""

FIGURES: dict[str, Callable[[Child], float]] = {
    "reward": lambda child: child.reward,
    "mean AP of the exits": lambda child: float(np.mean(child.aps)),
    "AP of the first exit": lambda child: child.aps[0],
    "AP of the last exit": lambda child: child.aps[-1],
}
"""Figures of a child that journals of detectors with any number of exits have in common."""


@dataclass(frozen=True, slots=True)
class FigureAgreement:
    """Kendall's tau of one figure in two journals, over the graphs that both have."""

    figure: str
    tau: BootstrapInterval
    of_better_half: BootstrapInterval
    """The same of those that the first journal has in its better half."""


@dataclass(frozen=True, slots=True)
class DepthGain:
    """What depth gains within the children of a journal."""

    name: str
    last_less_first: BootstrapInterval
    """AP of the last exit less that of the first."""
    num_gaining: int
    """Number of graphs whose last exit is above their first."""


@dataclass(frozen=True, slots=True)
class ProxyAgreement:
    """How two journals agree on the graphs that both have; means over seeds."""

    num_graphs: int
    figures: tuple[FigureAgreement, ...]
    gains: tuple[DepthGain, ...]


def compare(names: Sequence[str], journals: Sequence[Contents]) -> ProxyAgreement:
    """Return how the second of two journals agrees with the first.

    Raises JournalError if they have too few graphs in common.
    """
    found = [successes(contents.children) for contents in journals]
    keys = [key for key in found[0] if key in found[1]]
    if len(keys) < MIN_IN_COMMON:
        raise JournalError(
            f"{' and '.join(names)} have {len(keys)} graphs in common, "
            f"and {MIN_IN_COMMON} tell whether they agree"
        )

    def values(of_journal: Mapping[str, Sequence[Child]], figure: str) -> Any:
        get = FIGURES[figure]
        return np.array([np.mean([get(child) for child in of_journal[key]]) for key in keys])

    figures = []
    for figure in FIGURES:
        one, other = (values(of_journal, figure) for of_journal in found)
        better = np.argsort(-one)[: (len(keys) + 1) // 2]
        figures.append(
            FigureAgreement(
                figure, rank_agreement(one, other), rank_agreement(one[better], other[better])
            )
        )
    gains = []
    for name, of_journal in zip(names, found, strict=True):
        gained = values(of_journal, "AP of the last exit") - values(
            of_journal, "AP of the first exit"
        )
        gains.append(DepthGain(name, bootstrap(gained), int((gained > 0).sum())))
    return ProxyAgreement(len(keys), tuple(figures), tuple(gains))


def as_markdown(found: ProxyAgreement) -> str:
    """Return the tables: agreement by figure, and what depth gains in either."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: ProxyAgreement) -> Iterator[str]:
    yield (
        f"{found.num_graphs} graphs trained both ways, each the mean of its seeds. Intervals are "
        "95 %, by resampling graphs."
    )
    yield from markdown.table(
        (
            ("figure", lambda row: row.figure),
            ("Kendall's tau", lambda row: str(row.tau)),
            ("of the better half", lambda row: str(row.of_better_half)),
        ),
        found.figures,
    )
    yield from markdown.table(
        (
            ("children of", lambda row: row.name),
            ("AP of the last exit less that of the first", lambda row: str(row.last_less_first)),
            ("graphs that gain", lambda row: f"{row.num_gaining} of {found.num_graphs}"),
        ),
        found.gains,
    )
