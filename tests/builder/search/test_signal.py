"""What is the graphs', and what is luck, where both are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builder.search.evaluators.analytic import AnalyticEvaluator
from builder.search.journal import REPEATED, Child, Contents
from builder.search.report import as_html, as_markdown, summarise
from builder.search.run import run
from builder.search.searchers.listed import Listed, random_graphs
from builder.search.signal import MIN_GRAPHS, signals
from builder.search.space import SPACES, NotInSpace
from tests.builder.search.children import analytic_search

SPACE = SPACES["nas-fpn"]


def repeated(tmp_path: Path, noise: float, graphs: int = 40, children: int = 120) -> list[Child]:
    search = replace(
        analytic_search("random", evaluator=AnalyticEvaluator(noise=noise)),
        create=lambda: Listed(random_graphs(SPACE, 0, graphs)),
    )
    return list(run(search, tmp_path, children))


def test_without_luck_all_is_the_graphs(tmp_path: Path) -> None:
    found = signals(repeated(tmp_path, noise=0.0))
    names = [signal.figure for signal in found]
    assert names == ["reward", "mean AP of the exits", *(f"AP of exit {k}" for k in (1, 2, 3))]
    for signal in found:
        assert (signal.num_graphs, signal.num_seeds) == (40, 3)
        assert signal.share.middle == pytest.approx(1.0)
        assert signal.deviation_of_seeds == pytest.approx(0.0, abs=1e-12)


def test_the_deviations_are_those_that_results_are_made_of(tmp_path: Path) -> None:
    noise = 0.02
    children = repeated(tmp_path, noise)
    evaluator = AnalyticEvaluator(noise=noise)
    last = signals(children)[-1]
    truths = [evaluator.truth(graph)[-1] for graph in random_graphs(SPACE, 0, 40)]
    assert last.deviation_of_seeds == pytest.approx(noise, rel=0.2)
    assert last.deviation_of_graphs == pytest.approx(np.std(truths, ddof=1), rel=0.5)
    variance = last.deviation_of_graphs**2
    assert last.share_of_one_seed.middle == pytest.approx(
        variance / (variance + last.deviation_of_seeds**2)
    )
    assert last.share.low < last.share.middle < last.share.high


def test_of_a_part_of_the_seeds_those_that_enough_graphs_have_count(tmp_path: Path) -> None:
    (partial,) = {(s.num_graphs, s.num_seeds) for s in signals(repeated(tmp_path, 0.01)[:110])}
    assert partial == (30, 3)
    for count in (85, 105):  # of 105, 25 graphs have all three
        (two,) = {(s.num_graphs, s.num_seeds) for s in signals(repeated(tmp_path, 0.01)[:count])}
        assert two == (40, 2)


def test_too_few_graphs_tell_nothing(tmp_path: Path) -> None:
    children = repeated(tmp_path, 0.01)
    assert not signals(children[: 40 + MIN_GRAPHS - 1])
    assert not signals([replace(child, status=REPEATED) for child in children])
    assert not signals([])


@pytest.mark.parametrize(("noise", "verdict"), [(0.001, "enough to"), (0.2, "too little to")])
def test_the_report_says_whether_it_is_enough(tmp_path: Path, noise: float, verdict: str) -> None:
    children = repeated(tmp_path, noise)
    search = {
        "space": "nas-fpn",
        "searcher": "signal",
        "seed": 0,
        "evaluator": {"name": "analytic"},
        "reward": {"name": "anytime"},
        "latency": {"unit": "ms"},
    }
    report = summarise(["mine"], [Contents(search, tuple(children))], None)
    for text in (as_markdown(report), as_html(report)):
        assert f"is the graphs', which is {verdict} search by" in text
        assert "mine: graphs or luck" in text


def test_random_graphs_are_different_networks() -> None:
    graphs = random_graphs(SPACES["micro"], 1, 641)
    assert len(graphs) == 641
    with pytest.raises(NotInSpace, match="does not have 642 different graphs"):
        random_graphs(SPACES["micro"], 1, 642)
