"""Agreement of two ways of training, over the graphs that both have."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from builder.search import proxy_agreement
from builder.search.canonical import canonical_key
from builder.search.journal import FAILED, OK, Child, Contents, JournalError
from builder.search.proxy_agreement import FIGURES, as_markdown, compare
from builder.search.searchers.listed import random_graphs
from builder.search.space import SPACES
from builder.search.statistics import rank_agreement

GRAPHS = random_graphs(SPACES["nas-fpn"], 0, 12)


def journal(rewards: list[float], gain: float, exits: int = 3) -> Contents:
    """A child of each of the first graphs, whose AP goes up by so much from exit to exit."""
    children = []
    for index, (graph, reward) in enumerate(zip(GRAPHS, rewards, strict=False)):
        aps = tuple(reward + gain * depth for depth in range(exits))
        key = canonical_key(graph)
        children.append(Child(index, graph.rows, key, 0, OK, aps, (), reward, {}))
    return Contents({}, tuple(children))


RISING = np.linspace(0.1, 0.4, 12).tolist()


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_agreement, "rank_agreement", partial(rank_agreement, resamples=100))


def test_equal_orders_agree_and_opposite_ones_do_not() -> None:
    proxy = journal(RISING, -0.01)
    same = compare(["a", "b"], [proxy, journal(RISING, 0.02, exits=5)])
    assert same.num_graphs == 12
    assert [row.figure for row in same.figures] == list(FIGURES)
    for row in same.figures:
        assert (row.tau.middle, row.of_better_half.middle) == pytest.approx((1, 1))
    opposite = compare(["a", "b"], [proxy, journal(RISING[::-1], 0.02)])
    assert [row.tau.middle for row in opposite.figures] == pytest.approx([-1] * len(FIGURES))


def test_the_order_of_the_better_half_is_that_of_the_first() -> None:
    # The six best of the first are in the other order in the second, below all others.
    other = compare(["a", "b"], [journal(RISING, 0.0), journal(RISING[:6] + RISING[:5:-1], 0.0)])
    reward = other.figures[0]
    assert reward.of_better_half.middle == pytest.approx(-1)
    assert reward.tau.low < reward.tau.middle < 1.0


def test_what_depth_gains() -> None:
    found = compare(["short", "long"], [journal(RISING, -0.01), journal(RISING, 0.02)])
    short, long = found.gains
    assert (short.name, short.num_gaining) == ("short", 0)
    assert short.last_less_first.middle == pytest.approx(-0.02)
    assert (long.name, long.num_gaining) == ("long", 12)
    assert long.last_less_first.middle == pytest.approx(0.04)
    assert "| long |" in as_markdown(found)
    assert "| 12 of 12 |" in as_markdown(found)


def test_too_few_graphs_in_common_tell_nothing() -> None:
    with pytest.raises(JournalError, match="a and b have 4 graphs in common"):
        compare(["a", "b"], [journal(RISING, 0.0), journal(RISING[:4], 0.0)])
    failed = Contents(
        {}, tuple(Child(i, g.rows, "k", 0, FAILED, (), (), 0.0, {}) for i, g in enumerate(GRAPHS))
    )
    with pytest.raises(JournalError, match="0 graphs in common"):
        compare(["a", "b"], [journal(RISING, 0.0), failed])
