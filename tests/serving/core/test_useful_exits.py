"""Which exits are worth going deeper for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.useful_exits import UNMEASURED_GAIN, UsefulExits

accuracies = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5]), min_size=1, max_size=7)


@pytest.mark.parametrize(
    ("accuracy", "targets"),  # from depth 0, 1, ..
    [
        ((0.5, 0.55, 0.58, 0.60, 0.61), (1, 2, 3, 4, 5, 0)),
        ((0.5, 0.4, 0.6, 0.55, 0.6), (1, 3, 3, 0, 0, 0)),  # the last is no better than the third
        ((0.1, 0.15, 0.5), (1, 3, 3, 0)),  # the steepest way passes the second one
        ((0.125, 0.25, 0.375), (1, 2, 3, 0)),  # as steep, and shallower
        ((0.6, 0.5, 0.4), (1, 0, 0, 0)),
        ((0.0, 0.5), (2, 2, 0)),  # an exit that finds nothing is no reason to stop
        ((0.4,), (1, 0)),
        ((0.4, 0.4, 0.4), (1, 2, 3, 0)),  # not measured
        ((0.0, 0.0), (1, 2, 0)),
    ],
)
def test_the_next_exit(accuracy, targets):
    ladder = UsefulExits(accuracy)
    assert tuple(ladder.next(d, len(accuracy)) for d in range(len(accuracy) + 1)) == targets


@pytest.mark.parametrize(
    ("depth", "max_depth", "target"),
    [(1, 1, 0), (1, 2, 2), (1, 3, 3), (2, 2, 0), (2, 3, 3), (1, 99, 3), (3, 99, 0), (3, 1, 0)],
)
def test_the_next_exit_within_bounds(depth, max_depth, target):
    """Up to the third it is steeper to the third than to the second."""
    assert UsefulExits((0.1, 0.15, 0.5)).next(depth, max_depth) == target


def test_accuracies_and_gains():
    ladder = UsefulExits((0.4, 0.5, 0.45))
    assert ladder.num_exits == 3
    assert [ladder.ap(d) for d in range(4)] == [0.0, 0.4, 0.5, 0.45]
    assert ladder.gain(0, 1) == math.inf, "who has nothing is owed something"
    assert ladder.gain(1, 2) == pytest.approx(0.1)
    assert ladder.gain(2, 3) == pytest.approx(-0.05)


def test_equal_accuracies_are_no_measurement():
    ladder = UsefulExits((0.4,) * 4)
    for depth in range(1, 4):
        assert ladder.gain(depth, depth + 1) == pytest.approx(UNMEASURED_GAIN)


@given(accuracies, st.integers(0, 7), st.integers(0, 9))
def test_the_next_exit_is_better_within_bounds_and_reached_most_steeply(values, start, max_depth):
    ladder = UsefulExits(values)
    depth = min(start, ladder.num_exits)
    limit = min(max_depth, ladder.num_exits)
    target = ladder.next(depth, max_depth)
    rungs = [d for d in range(depth + 1, limit + 1) if ladder.ap(d) > max(map(ladder.ap, range(d)))]
    assert (target == 0) == (rungs == [])
    assert target == 0 or target in rungs
    if depth and target:
        slopes = {d: ladder.gain(depth, d) / (d - depth) for d in rungs}
        assert slopes[target] == max(slopes.values())


@given(accuracies)
def test_climbing_ends_at_the_shallowest_of_the_best(values):
    ladder = UsefulExits(values)
    reached = 0
    while target := ladder.next(reached, ladder.num_exits):
        reached = target
    aps = [ladder.ap(d) for d in range(ladder.num_exits + 1)]
    assert reached == aps.index(max(aps))
