"""Contests: differences by seed, times of one kind for all, and what the tables say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from builder.config.pyramid_graphs import GRAPHS, Graph
from builder.search import in_time
from builder.search.canonical import canonical_key
from builder.search.contest import ARRIVALS, IN_TIME, LOADS, REWARD, ap_of, compare
from builder.search.contest_report import as_html, as_markdown
from builder.search.controls import controls
from builder.search.journal import OK, Child, Contents, JournalError
from builder.search.latency_table import synthetic_table
from builder.search.space import SPACES
from builder.search.stack_rounds import StackRounds
from serving.core.command_errors import CommandError

SPACE = SPACES["nas-fpn"]
MINE = SPACE.decode(SPACE.sample(np.random.default_rng(3)))
FPN, NAS_FPN = controls(SPACE.levels)["fpn"], GRAPHS["nas_fpn"]
SEARCH = {
    "space": "nas-fpn",
    "searcher": "necks",
    "evaluator": {"name": "train"},
    "reward": {"name": "anytime"},
    "latency": synthetic_table().to_dict(),
}


def journal(*results: tuple[Graph, int, tuple[float, ...]]) -> Contents:
    """Graph, training seed and APs of each child."""
    return Contents(
        SEARCH,
        tuple(
            Child(i, graph.rows, canonical_key(graph), seed, OK, aps, (), 0.0, {})
            for i, (graph, seed, aps) in enumerate(results)
        ),
    )


LUCK = {0: -0.2, 1: 0.0, 2: 0.2}
"""What a seed does to all graphs alike, far more than graphs differ by."""


def results(graph: Graph, worth: float) -> list[tuple[Graph, int, tuple[float, ...]]]:
    return [(graph, seed, (0.3 + worth + luck, 0.4 + worth + luck)) for seed, luck in LUCK.items()]


def test_luck_that_all_have_in_common_counts_for_nothing() -> None:
    contest = compare(
        [journal(*results(MINE, 0.02), *results(NAS_FPN, 0.0)), journal(*results(FPN, 0.01)[:2])],
        None,
        in_time=False,
    )
    first, published, fpn = contest.standings
    assert (published.name, fpn.name) == ("nas_fpn", "fpn")
    assert (first.num_seeds, fpn.num_seeds) == (3, 2)
    for depth in (1, 2):
        assert published.first_ahead[ap_of(depth)].mean == pytest.approx(0.02)
        assert published.first_ahead[ap_of(depth)].half == pytest.approx(0.0, abs=1e-9)
        # Of the two seeds that both have, not of three against two.
        assert fpn.first_ahead[ap_of(depth)].mean == pytest.approx(0.01)
        assert first.figures[ap_of(depth)].half > 0.2
    assert first.first_ahead == {}
    text = as_markdown(contest)
    assert "above 0 against nas_fpn" in text
    assert text.count("| `nas_fpn` |") == 2


def measured(graphs: tuple[Graph, ...], stacks: tuple[float, ...]) -> StackRounds:
    ms = np.empty((len(graphs), 1, 4, 3))
    ms[..., 0], ms[..., 2] = 5.0, 7.0
    ms[..., 1] = np.reshape(stacks, (-1, 1, 1))
    return StackRounds(graphs, ms, {})


def test_a_graph_is_judged_by_its_measured_time() -> None:
    same = [journal(*results(MINE, 0.0), *results(NAS_FPN, 0.0))]
    rounds = measured((NAS_FPN, MINE), (4.0, 2.0))
    contest = compare(same, rounds, in_time=False)
    mine, published = contest.standings
    assert contest.timing.unit == "ms"
    assert contest.timing.exits[mine.key] == (14.0, 16.0)
    assert contest.timing.exits[published.key] == contest.timing.published == (16.0, 20.0)
    assert published.first_ahead[REWARD].mean > 0.01
    assert published.first_ahead[ap_of(2)].mean == 0
    assert contest.timing.ratios[published.key].middle == pytest.approx(20 / 16)
    with pytest.raises(CommandError, match=f"{published.key} was not measured"):
        compare(same, measured((MINE,), (2.0,)), in_time=False)


def test_accuracy_in_time_is_simulated_at_each_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_time, "NUM_REQUESTS", 60)
    contest = compare(
        [journal(*results(MINE, 0.0)[:2], *results(FPN, 0.0)[:2])], None, in_time=True
    )
    assert len(contest.conditions) == len(LOADS) * len(ARRIVALS)
    for standing in contest.standings:
        found = [standing.figures[name].mean for name in contest.conditions]
        assert standing.figures[IN_TIME].mean == pytest.approx(np.mean(found))
        assert found[0] > found[-1]
    text = as_markdown(contest)
    assert "| 1.8, gamma:4 |" in text
    assert f"| {IN_TIME} |" in text
    page = as_html(contest)
    assert "http" not in page
    assert page.count("<svg") == 3


def test_enough_graphs_tell_whether_the_reward_goes_with_accuracy_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(in_time, "NUM_REQUESTS", 60)
    random = np.random.default_rng(8)
    graphs = [SPACE.decode(SPACE.sample(random)) for _ in range(6)]
    children = [each for n, graph in enumerate(graphs) for each in results(graph, 0.05 * n)[:1]]
    contest = compare([journal(*children)], None, in_time=True)
    assert contest.agreement is not None
    assert contest.agreement.middle > 0.7
    sentence = "order the 6 graphs with a Kendall's tau of"
    assert sentence in as_markdown(contest)
    assert sentence.replace("'", "&#x27;") in as_html(contest)
    few = compare([journal(*children[:4])], None, in_time=True)
    untold = compare([journal(*children)], None, in_time=False)
    for other in (few, untold):
        assert other.agreement is None
        assert "Kendall" not in as_markdown(other) + as_html(other)


def test_one_seed_has_no_interval() -> None:
    contest = compare(
        [journal(*results(MINE, 0.0)[:1], *results(FPN, 0.0)[:1])], None, in_time=False
    )
    assert "inf" not in as_markdown(contest)
    assert "| `fpn` | 1 |" in as_markdown(contest)


def test_journals_of_different_kinds_are_no_contest() -> None:
    one = journal(*results(MINE, 0.0))
    other = replace(one, search=SEARCH | {"latency": {}})
    with pytest.raises(JournalError, match="not the same latency"):
        compare([one, other], None, in_time=False)
    with pytest.raises(JournalError, match="no child"):
        compare([journal()], None, in_time=False)
