"""Graphs trained alike with the same seeds, compared pair by pair with the first of them.

A seed is of initial weights and of the order of images, so differences are taken between children
with one seed, and intervals are over seeds (Student's t). Deadlines, rates and budgets are those of
the published graph of the same levels, for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.config.pyramid_graphs import Graph
from builder.search.canonical import canonical_key
from builder.search.controls import controls, reference
from builder.search.evaluators.tabular import successes
from builder.search.journal import Child, Contents, JournalError
from builder.search.latency_table import LatencyTable
from builder.search.proxy_agreement import MIN_IN_COMMON
from builder.search.rewards import Anytime
from builder.search.stack_rounds import StackRounds
from builder.search.statistics import BootstrapInterval, rank_agreement
from reporting.intervals import MeanInterval

LOADS = (0.3, 0.6, 0.9, 1.2, 1.8)
"""Loads, as shares of what the published graph could answer at exit 1, one at a time."""
ARRIVALS = ("constant", "poisson", "gamma:4")
REWARD, IN_TIME = "reward", "in time"
"""Names of figures."""
IN_COMMON = ("space", "evaluator", "reward", "latency")
"""What journals of one contest have in common."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times that a contest goes by."""

    unit: str
    stem: float
    head: float
    published: tuple[float, ...]
    """Times to each exit of the published graph."""
    exits: Mapping[str, tuple[float, ...]]
    """The same of each graph, by its key."""
    ratios: Mapping[str, BootstrapInterval]
    """Time to the last exit in that of the first graph, if it was measured, by key."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a graph did."""

    name: str
    key: str
    graph: Graph
    num_seeds: int
    figures: Mapping[str, MeanInterval]
    """Mean of each figure over seeds."""
    first_ahead: Mapping[str, MeanInterval]
    """By how much the first graph is ahead in each figure, over the seeds that both have."""


@dataclass(frozen=True, slots=True)
class Contest:
    """All graphs, the first one first, and the times they were judged by."""

    standings: tuple[Standing, ...]
    timing: Timing
    num_exits: int

    @property
    def rivals(self) -> tuple[Standing, ...]:
        """All but the first."""
        return self.standings[1:]

    @property
    def agreement(self) -> BootstrapInterval | None:
        """Kendall's tau of the reward and of accuracy in time over the graphs.

        None where that was not asked for, or of too few graphs.
        """
        if not self.conditions or len(self.standings) < MIN_IN_COMMON:
            return None
        rewards, in_time = (
            [standing.figures[name].mean for standing in self.standings]
            for name in (REWARD, IN_TIME)
        )
        return rank_agreement(rewards, in_time)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the figures that are accuracies in time at one load and kind of arrivals."""
        others = {REWARD, IN_TIME, *(ap_of(depth) for depth in range(1, self.num_exits + 1))}
        return tuple(name for name in self.standings[0].figures if name not in others)


def ap_of(depth: int) -> str:
    """Return the name of the figure that is the AP of an exit, from 1 on."""
    return f"AP of exit {depth}"


def compare(journals: Sequence[Contents], rounds: StackRounds | None, in_time: bool) -> Contest:
    """Return how the graphs in some journals compare with the first one of the first.

    Times are those in ``rounds``, or else those of the journals. With ``in_time``, every child goes
    through the simulator. Raises JournalError, and CommandError for a graph that was not measured.
    """
    for name in IN_COMMON:
        if any(contents.search[name] != journals[0].search[name] for contents in journals):
            raise JournalError(f"the journals have not the same {name}")
    found = successes([child for contents in journals for child in contents.children])
    if not found:
        raise JournalError("there is no child in the journals")
    by_seed = {
        key: {child.training_seed or 0: child for child in children}
        for key, children in found.items()
    }
    graphs = {key: children[0].graph for key, children in found.items()}
    num_exits = min(len(child.aps) for children in found.values() for child in children)
    timing = _timing(journals[0], rounds, graphs, num_exits)
    score = _scorer(timing, in_time)
    scores = {
        key: {seed: score(key, child) for seed, child in children.items()}
        for key, children in by_seed.items()
    }
    first = next(iter(graphs))
    names = {canonical_key(g): n for n, g in controls(graphs[first].levels).items()}
    standings = tuple(
        Standing(
            names.get(key, key),
            key,
            graphs[key],
            len(of_graph),
            {f: MeanInterval.of([s[f] for s in of_graph.values()]) for f in _figures(of_graph)},
            _ahead(scores[first], of_graph),
        )
        for key, of_graph in scores.items()
    )
    return Contest(standings, timing, num_exits)


Scores = Mapping[int, Mapping[str, float]]
"""Seed -> figure -> value."""


def _figures(scores: Scores) -> list[str]:
    return list(next(iter(scores.values())))


def _ahead(first: Scores, other: Scores) -> dict[str, MeanInterval]:
    seeds = [seed for seed in first if seed in other]
    if not seeds or first is other:
        return {}
    return {
        figure: MeanInterval.of([first[seed][figure] - other[seed][figure] for seed in seeds])
        for figure in _figures(first)
    }


def _timing(
    contents: Contents, rounds: StackRounds | None, graphs: Mapping[str, Graph], num_exits: int
) -> Timing:
    first = next(iter(graphs))
    published = reference(graphs[first].levels)
    if rounds is None:
        table = LatencyTable(**contents.search["latency"])
        return Timing(
            table.unit,
            table.stem,
            table.head,
            table.exits(published, num_exits),
            {key: table.exits(graph, num_exits) for key, graph in graphs.items()},
            {},
        )
    return Timing(
        "ms",
        rounds.stem,
        rounds.head,
        rounds.exits(canonical_key(published), num_exits),
        {key: rounds.exits(key, num_exits) for key in graphs},
        {key: rounds.ratio(key, first, num_exits) for key in graphs if key != first},
    )


def _scorer(timing: Timing, in_time: bool) -> Callable[[str, Child], dict[str, float]]:
    """Return the function that gives the figures of a child with a key."""
    reward = Anytime.around(timing.published)
    simulator: Any = None
    if in_time:
        from builder.search.in_time import InTime  # noqa: PLC0415  brings the simulator along

        simulator = InTime(timing.published, timing.stem, timing.head, LOADS, ARRIVALS)

    def score(key: str, child: Child) -> dict[str, float]:
        times = timing.exits[key]
        aps = child.aps[: len(times)]
        found = {REWARD: reward(aps, times)}
        found |= {ap_of(depth): ap for depth, ap in enumerate(aps, start=1)}
        if simulator:
            conditions = simulator.by_condition(aps, times)
            found[IN_TIME] = sum(conditions.values()) / len(conditions)
            found |= conditions
        return found

    return score
