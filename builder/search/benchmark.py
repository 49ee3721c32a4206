"""Searchers compared where the truth is known, over many seeds, by the regret of their choices.

A searcher's choice is the child with the best *observed* reward; its regret is by how much the true
worth of that child is below the best there is: in a small space that of all graphs, else the best
that any searcher came by in the comparison.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from html import escape
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from builder.config.pyramid_graphs import Graph
from builder.search.evaluators.base import Evaluator
from builder.search.journal import SearchJournal
from builder.search.latency_table import LatencyTable
from builder.search.pool import ThisProcess, begin_worker
from builder.search.rewards import Reward
from builder.search.run import Search, extend
from builder.search.searchers import SEARCHERS
from builder.search.searchers.listed import distinct_graphs
from builder.search.space import MAX_ENUMERATED, NotInSpace, SearchSpace
from builder.search.statistics import bootstrap, running_best
from reporting import html, markdown
from reporting.svg import Chart

CURVE_POINTS = 40
"""Number of points of a curve of regret, evenly over the children."""


class KnownEvaluator(Evaluator, Protocol):
    """An evaluator that knows what its results are without noise."""

    def knows(self, graph: Graph) -> bool:
        """Return whether there is a result for this pyramid: what has none is worth nothing."""
        ...

    def truth(self, graph: Graph) -> tuple[float, ...]:
        """Return the AP by exit of a detector with this pyramid."""
        ...


@dataclass(frozen=True, slots=True)
class SearcherTrial:
    """One search: the true worth of its choice after each budget, and how it went."""

    searcher: str
    seed: int
    chosen: tuple[float, ...]
    """True worth of what it would choose, after each number of children that was asked about."""
    best_seen: float
    """Best true worth of all its children."""
    unique: float
    """Different networks among its children, as a share of them."""
    first_mean: float
    last_mean: float
    """Mean observed reward of the first and the last tenth."""


def try_searcher(
    space: SearchSpace,
    searcher: str,
    seed: int,
    evaluator: KnownEvaluator,
    reward: Reward,
    table: LatencyTable,
    budgets: Sequence[int],
) -> SearcherTrial:
    """Search once, in memory, and return how it went."""
    search = Search(
        space=space.name,
        searcher=searcher,
        seed=seed,
        create=lambda: SEARCHERS[searcher](space, seed),
        evaluator=evaluator,
        reward=reward,
        table=table,
        first_training_seed=1000 * seed,  # other luck for every seed
    )
    journal = SearchJournal()
    extend(search, journal, max(budgets), ThisProcess(evaluator), tqdm(disable=True))
    worth: dict[str, float] = {}
    for child in journal.children:
        if child.key not in worth:
            aps = evaluator.truth(child.graph)
            worth[child.key] = reward(aps, table.exits(child.graph, len(aps)))
    rewards = [child.reward for child in journal.children]
    best = running_best(rewards)
    tenth = max(1, len(rewards) // 10)
    return SearcherTrial(
        searcher,
        seed,
        tuple(worth[journal.children[best[budget - 1]].key] for budget in budgets),
        max(worth.values()),
        len(worth) / len(rewards),
        float(np.mean(rewards[:tenth])),
        float(np.mean(rewards[-tenth:])),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of searchers: where, and what their children are worth."""

    space: SearchSpace
    evaluator: KnownEvaluator
    reward: Reward
    table: LatencyTable
    points: tuple[int, ...]
    """Numbers of children after which a choice is looked at."""

    def trials(self, plan: Sequence[tuple[str, int]], workers: int) -> Iterator[SearcherTrial]:
        """Yield the trial of each searcher and seed, in order, in so many processes."""
        if workers == 1:
            yield from map(self._try, plan)
            return
        # Fresh processes: a fork would take along whatever threads and locks this one has.
        context = multiprocessing.get_context("spawn")
        count = min(workers, len(plan))
        with ProcessPoolExecutor(count, mp_context=context, initializer=_prepare) as pool:
            yield from pool.map(self._try, plan)

    def _try(self, trial: tuple[str, int]) -> SearcherTrial:
        return try_searcher(
            self.space, *trial, self.evaluator, self.reward, self.table, self.points
        )


def _prepare() -> None:
    """Begin a process of the pool, with one thread: there is a process for each core."""
    import torch  # noqa: PLC0415  only in the process that searches

    begin_worker()
    torch.set_num_threads(1)


def optimum(
    space: SearchSpace,
    evaluator: KnownEvaluator,
    reward: Reward,
    table: LatencyTable,
    trials: Iterable[SearcherTrial],
) -> tuple[float, str]:
    """Return the best true worth that there is, and how that is known.

    Raises NotInSpace where no graph of a small space is known.
    """
    if space.size > MAX_ENUMERATED:
        return max(trial.best_seen for trial in trials), "the best that any searcher came by"
    graphs = distinct_graphs(space)
    known = [graph for graph in graphs if evaluator.knows(graph)]
    if not known:
        raise NotInSpace(f"no graph of {space.name} is known")
    truths = [(graph, evaluator.truth(graph)) for graph in known]
    worth = max(reward(aps, table.exits(graph, len(aps))) for graph, aps in truths)
    if len(known) == len(graphs):
        return worth, f"the best of all {len(graphs)} graphs"
    return worth, (
        f"the best of the {len(known)} graphs of {len(graphs)} that are known; the others count as "
        "failed children, worth nothing"
    )


def curve_points(budgets: Sequence[int]) -> list[int]:
    """Return the numbers of children after which the choice is looked at.

    They are ``budgets``, and ``CURVE_POINTS`` others up to the largest.
    """
    last = max(budgets)
    others = {max(1, round(last * part / CURVE_POINTS)) for part in range(1, CURVE_POINTS + 1)}
    return sorted({*budgets, *others})


def summary(
    trials: Sequence[SearcherTrial],
    points: Sequence[int],
    budgets: Sequence[int],
    best: float,
    head: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the regrets by searcher and budget, with their intervals over seeds, and the curves.

    ``points`` are what the trials chose after; ``budgets`` are some of them. Differences are to
    the first searcher, at the same seed.
    """
    searchers = list(dict.fromkeys(trial.searcher for trial in trials))
    regret = {
        name: np.array([[best - v for v in t.chosen] for t in trials if t.searcher == name])
        for name in searchers
    }
    curves = {
        name: [_interval(regret[name][:, place]) for place in range(len(points))]
        for name in searchers
    }
    rows = [
        {
            "searcher": name,
            "budget": points[place],
            "regret": curves[name][place],
            "less_that_of_first": None
            if name == searchers[0]
            else _interval(regret[name][:, place] - regret[searchers[0]][:, place]),
        }
        for name in searchers
        for place in range(len(points))
        if points[place] in budgets
    ]
    courses = [
        {
            "searcher": name,
            **{
                field: _mean(getattr(t, field) for t in trials if t.searcher == name)
                for field in ("unique", "first_mean", "last_mean")
            },
        }
        for name in searchers
    ]
    return {
        **head,
        "seeds": len({trial.seed for trial in trials}),
        "optimum": round(best, 6),
        "regrets": rows,
        "courses": courses,
        "points": list(points),
        "curves": curves,
    }


def _interval(values: Any) -> list[float]:
    found = bootstrap(values)
    return [round(value, 6) for value in (found.middle, found.low, found.high)]


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean(list(values))), 6)


_COLUMNS: markdown.Columns[Mapping[str, Any]] = (
    ("searcher", lambda row: row["searcher"]),
    ("children", lambda row: str(row["budget"])),
    ("regret of the choice", lambda row: _text(row["regret"])),
    ("less that of the first", lambda row: _text(row["less_that_of_first"])),
)

_COURSE_COLUMNS: markdown.Columns[Mapping[str, Any]] = (
    ("searcher", lambda row: row["searcher"]),
    ("unique / all", lambda row: f"{row['unique']:.3f}"),
    ("mean reward, first tenth", lambda row: f"{row['first_mean']:.4f}"),
    ("last tenth", lambda row: f"{row['last_mean']:.4f}"),
)


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as tables: what the search was, regrets, and how searches went."""
    lines = [f"`{report['command']}`", "", _says(report)]
    lines += markdown.table(_COLUMNS, report["regrets"])
    lines += markdown.table(_COURSE_COLUMNS, report["courses"])
    return "\n".join(lines) + "\n"


def _says(report: Mapping[str, Any]) -> str:
    return (
        f"Space {report['space']}, evaluator {report['evaluator']}, reward {report['reward']}, "
        f"{report['seeds']} seeds; {report['machine']}, {report['date']}. The optimum is "
        f"{report['optimum']:.4f}: {report['optimum_is']}. Means with 95 % bootstrap intervals "
        f"over seeds; differences are to {report['regrets'][0]['searcher']}, paired by seed, and "
        "negative ones are better."
    )


def as_html(report: Mapping[str, Any]) -> str:
    """Return a page with regret against children, and the tables. It fetches nothing."""
    drawn = list(zip(report["curves"].items(), html.SERIES, strict=False))
    highest = max(high for (_, curve), _ in drawn for _, _, high in curve)
    points = report["points"]
    chart = Chart(
        "Regret of the choice", "children", "regret", (0, points[-1]), (0, 1.05 * highest or 1.0)
    )
    for (name, curve), colour in drawn:
        bounds = [(n, low, high) for n, (_, low, high) in zip(points, curve, strict=True)]
        chart.band(bounds, colour, f"{name}: 95 %")
        chart.line([(n, row[0]) for n, row in zip(points, curve, strict=True)], colour, name)
    figure = chart.render() + html.legend([(name, colour) for (name, _), colour in drawn])
    content = f'<p class="muted">{escape(_says(report))}</p>'
    content += html.section("Regret of the choice", figure)
    for title, columns, rows in (
        ("Regret", _COLUMNS, report["regrets"]),
        ("How searches went", _COURSE_COLUMNS, report["courses"]),
    ):
        cells = [[cell(row) for _, cell in columns] for row in rows]
        content += html.section(title, html.table([head for head, _ in columns], cells))
    return html.document("Searchers compared", content)


def _text(interval: Sequence[float] | None) -> str:
    if interval is None:
        return "-"
    middle, low, high = interval
    return f"{middle:.4f} [{low:.4f}, {high:.4f}]"
