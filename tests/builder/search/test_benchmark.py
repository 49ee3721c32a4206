"""The comparison of searchers: regret, and that it tells them apart."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from builder.search import benchmark
from builder.search.benchmark import (
    Comparison,
    SearcherTrial,
    as_html,
    as_markdown,
    curve_points,
    optimum,
    summary,
    try_searcher,
)
from builder.search.canonical import canonical_key
from builder.search.controls import reference
from builder.search.evaluators.analytic import AnalyticEvaluator
from builder.search.evaluators.tabular import TabularEvaluator
from builder.search.latency_table import synthetic_table
from builder.search.rewards import REWARDS
from builder.search.searchers.listed import distinct_graphs
from builder.search.space import SPACES, NotInSpace

HEAD = {
    "command": "punctual search benchmark",
    "space": "micro",
    "evaluator": "analytic",
    "reward": "anytime",
    "machine": "a machine",
    "date": "2026-01-01",
    "optimum_is": "known",
}


def trials(
    searcher: str, space: str, seeds: int, budgets: list[int], noise: float
) -> list[SearcherTrial]:
    of_space = SPACES[space]
    table = synthetic_table()
    reward = REWARDS["anytime"](table, reference(of_space.levels), 3)
    evaluator = AnalyticEvaluator(noise=noise)
    return [
        try_searcher(of_space, searcher, seed, evaluator, reward, table, budgets)
        for seed in range(seeds)
    ]


def test_a_searcher_that_sees_everything_has_no_regret() -> None:
    (trial,) = trials("exhaustive", "micro", 1, [100, 641], 0.0)
    space = SPACES["micro"]
    table = synthetic_table()
    reward = REWARDS["anytime"](table, reference(space.levels), 3)
    best, known = optimum(space, AnalyticEvaluator(), reward, table, [trial])
    assert trial.chosen[1] == best == trial.best_seen
    assert known == "the best of all 641 graphs"
    assert trial.chosen[0] < best
    assert trial.unique == 1.0


@pytest.mark.slow
def test_processes_find_what_one_does() -> None:
    space, table = SPACES["micro"], synthetic_table()
    reward = REWARDS["anytime"](table, reference(space.levels), 3)
    comparison = Comparison(space, AnalyticEvaluator(), reward, table, (10, 20))
    plan = [("random", 0), ("evolution", 1), ("random", 2)]
    found = list(comparison.trials(plan, 2))
    assert [(trial.searcher, trial.seed) for trial in found] == plan
    assert found == list(comparison.trials(plan, 1))


def test_evolution_has_less_regret_than_random() -> None:
    found = [
        *trials("random", "nas-fpn", 5, [50, 200], 0.008),
        *trials("evolution", "nas-fpn", 5, [50, 200], 0.008),
    ]
    best = max(trial.best_seen for trial in found)
    report = summary(found, [50, 200], [50, 200], best, HEAD)
    rows = {(row["searcher"], row["budget"]): row for row in report["regrets"]}
    assert rows["evolution", 200]["less_that_of_first"][2] < 0
    assert rows["random", 200]["less_that_of_first"] is None
    assert rows["random", 200]["regret"][0] < rows["random", 50]["regret"][0]
    text = as_markdown(report)
    assert "| evolution | 200 |" in text
    assert "5 seeds" in text


def test_differences_are_paired_by_seed() -> None:
    def trial(searcher: str, seed: int, chosen: float) -> SearcherTrial:
        return SearcherTrial(searcher, seed, (chosen,), chosen, 1.0, 0.0, 0.0)

    worth = np.linspace(0.1, 0.9, 20)
    found = [trial("random", seed, value) for seed, value in enumerate(worth)]
    found += [trial("evolution", seed, value + 0.01) for seed, value in enumerate(worth)]
    row = summary(found, [10], [10], 1.0, HEAD)["regrets"][1]
    assert row["less_that_of_first"] == pytest.approx([-0.01] * 3)
    low, high = row["regret"][1:]
    assert high - low > 0.1


def test_a_curve_goes_through_the_budgets() -> None:
    points = curve_points([50, 400])
    assert points[0] == 10
    assert points[-1] == 400
    assert {50, 400} <= set(points)
    assert curve_points([3]) == [1, 2, 3]


def test_the_page_shows_regret_against_children() -> None:
    points = curve_points([20])
    found = [
        *trials("random", "micro", 2, points, 0.0),
        *trials("evolution", "micro", 2, points, 0.0),
    ]
    report = summary(found, points, [20], 1.0, HEAD)
    assert [row["budget"] for row in report["regrets"]] == [20, 20]
    assert set(report["curves"]) == {"random", "evolution"}
    page = as_html(report)
    assert "http" not in page
    (picture,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    root = ElementTree.fromstring(picture)
    assert len(root.findall("polyline")) == len(root.findall("polygon")) == 2


def test_the_optimum_of_a_partial_table_is_the_best_that_is_known() -> None:
    space, table = SPACES["micro"], synthetic_table()
    reward = REWARDS["anytime"](table, reference(space.levels), 3)
    graphs = distinct_graphs(space)
    known = {canonical_key(graph): [(0.1, 0.1, 0.1)] for graph in graphs[:40]}
    known[canonical_key(graphs[0])] = [(0.3, 0.3, 0.3)]
    evaluator = TabularEvaluator(known, "half of it", is_partial=True)
    trial = try_searcher(space, "random", 0, evaluator, reward, table, [100])
    best, how = optimum(space, evaluator, reward, table, [trial])
    assert how.startswith("the best of the 40 graphs of 641 that are known")
    assert best == reward((0.3, 0.3, 0.3), table.exits(graphs[0], 3))
    assert trial.chosen[0] > 0
    none = TabularEvaluator({"": [(0.1,)]}, "of others", is_partial=True)
    with pytest.raises(NotInSpace, match="no graph of micro is known"):
        optimum(space, none, reward, table, [trial])


def test_a_process_of_a_comparison_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(benchmark, "begin_worker", lambda: begun.append(True))
    monkeypatch.setattr(torch, "set_num_threads", begun.append)
    benchmark._prepare()
    assert begun == [True, 1]
