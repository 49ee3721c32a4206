"""What a second buys others in depth: the envelope, limits, and what a random walk loses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.core.scheduling.depth_price import CostAndAp, DepthPrice, concave_envelope, fluid_dual

LADDER: list[CostAndAp] = [(0.008, 0.44), (0.012, 0.53), (0.016, 0.57), (0.020, 0.59)]
SLOPES = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(LADDER)]
LIMIT_S = 0.2


def test_the_envelope_is_of_points_that_a_mix_of_others_does_not_beat():
    under_a_mix, slower_and_no_better = (0.014, 0.54), (0.017, 0.57)
    assert concave_envelope([slower_and_no_better, *LADDER, under_a_mix]) == LADDER


def test_the_envelope_begins_with_the_quickest_point():
    steep = [(0.010, 0.1), (0.012, 0.5)]
    assert concave_envelope([(0.010, 0.05), *steep]) == steep


def test_points_that_only_rounding_tells_apart_are_one():
    least, most = np.nextafter(1.0, 0.0), 1.0
    assert concave_envelope([(0.25, least), (1.0, most)]) == [(0.25, least)]


@pytest.mark.parametrize(
    ("envelope", "rate_hz"), [(LADDER[:1], 100.0), (LADDER, 0.0), (LADDER, 5e-324)]
)
def test_time_is_free_where_it_buys_nothing(envelope, rate_hz):
    assert DepthPrice(envelope, rate_hz, 1.0, LIMIT_S).at(2 * LIMIT_S) == 0.0


@pytest.mark.parametrize("rate_hz", [1.0, 50.0, 70.0, 100.0, 125.0, 1000.0])
def test_it_rises_from_nothing_to_the_steepest_slope(rate_hz):
    price = DepthPrice(LADDER, rate_hz, 1.0, LIMIT_S)
    values = [price.at(backlog_s) for backlog_s in np.linspace(0.0, 1.02 * LIMIT_S, 40)]
    assert values == sorted(values)
    assert values[0] == 0.0
    assert values[-1] == pytest.approx(SLOPES[0])


@pytest.mark.parametrize(
    ("rate_hz", "dual"),
    [(40.0, 0.0), (55.0, SLOPES[2]), (70.0, SLOPES[1]), (100.0, SLOPES[0])],
)
def test_in_the_middle_it_is_near_the_dual_of_the_fluid_problem(rate_hz, dual):
    """With even arrivals the fluid is all there is."""
    price = DepthPrice(LADDER, rate_hz, 0.01, LIMIT_S)
    assert fluid_dual(LADDER, rate_hz) == pytest.approx(dual)
    assert price.at(LIMIT_S / 2) == pytest.approx(dual, rel=0.1, abs=0.1)


def walk_price(price: DepthPrice, rate_hz: float, cv2: float, num_states: int) -> np.ndarray:
    """What each step of backlog costs a random walk between 0 and the limit.

    In each state it earns what arrivals are answered with at the point that is best at that price;
    what would lead beyond the limit costs the steepest slope a second.
    """
    step_s = LIMIT_S / num_states
    cost_s, ap = np.array(LADDER).T
    states = np.arange(num_states + 1)
    prices = np.array([price.at(state * step_s) for state in states])
    chosen = (ap - np.outer(prices, cost_s)).argmax(1)
    drift, variance = rate_hz * cost_s - 1.0, rate_hz * cost_s**2 * cv2
    up, down = ((variance / step_s**2 + s * drift / step_s)[chosen] / 2 for s in (1, -1))
    assert min(*up, *down) > 0, "the steps are too long"
    rewards = rate_hz * ap[chosen]
    rewards[-1] -= up[-1] * SLOPES[0] * step_s
    # The mean reward is unknown, and the value of each state but the first, which is 0.
    equations = np.diag(up[:-1], 1) + np.diag(down[1:], -1)
    equations -= np.diag(np.append(up[:-1], 0.0) + np.insert(down[1:], 0, 0.0))
    equations[:, 0] = -1.0
    values = np.linalg.solve(equations, -rewards)
    values[0] = 0.0
    return -np.diff(values) / step_s


@pytest.mark.parametrize("rate_hz", [45.0, 50.0, 70.0, 100.0, 130.0])
def test_it_is_what_backlog_costs_a_random_walk_that_chooses_by_it(rate_hz):
    price, num_states = DepthPrice(LADDER, rate_hz, 1.0, LIMIT_S), 400
    walk = walk_price(price, rate_hz, 1.0, num_states)
    middles_s = (np.arange(num_states) + 0.5) * LIMIT_S / num_states
    expected = np.array([price.at(middle_s) for middle_s in middles_s])
    assert np.allclose(walk, expected, rtol=0.12, atol=0.25), "near the limit g counts for much"


@example(points=[(1.5, 1.0), (0.5, 1.0 - 2e-6)], rate_hz=1.0, cv2=1.0, limit_s=1e-6, shares=[0, 1])
@example(points=[(1.0, 1.0), (0.25, 1.0 - 2e-6)], rate_hz=2.0, cv2=1.0, limit_s=1.0, shares=[1, 2])
@example(
    points=[(1.5, 0.75), (0.5, 0.53125), (0.625, 0.5625)],
    rate_hz=10.0,
    cv2=1.0,
    limit_s=4.0,
    shares=[1, 2],
)
@given(
    points=st.lists(st.tuples(st.floats(1e-6, 10.0), st.floats(0.0, 1.0)), min_size=1, max_size=8),
    rate_hz=st.floats(0.0, 1e6),
    cv2=st.floats(0.25, 16.0),
    limit_s=st.floats(1e-6, 1e3),
    shares=st.lists(st.floats(0.0, 2.0), min_size=2, max_size=5),
)
def test_more_backlog_never_makes_time_cheaper(
    points: Sequence[CostAndAp], rate_hz, cv2, limit_s, shares
):
    price = DepthPrice(concave_envelope(points), rate_hz, cv2, limit_s)
    values = [price.at(share * limit_s) for share in sorted(shares)]
    largest = price.at(10 * limit_s)
    assert all(low <= high * (1 + 1e-6) + 1e-9 * largest for low, high in pairwise(values))
    assert values[0] >= 0.0
    assert values[-1] <= largest * (1 + 1e-6)
