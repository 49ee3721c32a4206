"""What engine time is worth: limits, directions, and ruin against random walks."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.demand import UNKNOWN, Demand
from serving.core.scheduling.depth_price import DepthPrice
from serving.core.scheduling.opportunity_cost import (
    CAUTION,
    HOLD_UP_WEIGHT,
    MAX_CV2,
    MIN_CV2,
    MIN_LIMIT,
    RATE_MARGIN,
    OpportunityCostModel,
)

REQUEST_S, ACCURACY = 0.010, 0.5
BUSY = Demand(rate_hz=80.0, cv2=1.0, budgets_s=(0.2,))
FLOOD = CAUTION * ACCURACY / REQUEST_S
"""What engine time is worth when whoever comes is sure to be lost."""


def price_of(
    demand: Demand,
    accuracy: float = ACCURACY,
    request_s: float = REQUEST_S,
    seldom_s: float | None = None,
) -> OpportunityCostModel:
    """Of this demand without the margin; a request always takes the same, unless it is said what it
    seldom exceeds."""
    measured = replace(demand, rate_hz=demand.rate_hz / RATE_MARGIN)
    return OpportunityCostModel(measured, request_s, accuracy, (seldom_s or request_s, request_s))


def of(demand: Demand, backlog_s: float = 0.05) -> float:
    """Whatever their budget, newcomers have the same backlog."""
    return price_of(demand).given([backlog_s] * len(demand.budgets_s)).per_second


def rising(values: list[float]) -> bool:
    return all(low < high for low, high in pairwise(values))


def test_it_is_that_of_a_somewhat_higher_rate():
    """A rate that was measured too low costs more than one that was measured too high."""
    price = OpportunityCostModel(BUSY, REQUEST_S, ACCURACY, (REQUEST_S, REQUEST_S))
    assert price.rho == pytest.approx(RATE_MARGIN * BUSY.rate_hz * REQUEST_S)


@pytest.mark.parametrize("backlog_s", [0.0, 0.05, 10.0])
def test_time_is_free_when_nobody_will_come(backlog_s):
    assert of(UNKNOWN, backlog_s) == 0.0
    assert of(replace(BUSY, rate_hz=0.0), backlog_s) == 0.0


def test_time_is_free_when_whoever_comes_would_be_late_anyway():
    assert of(replace(BUSY, budgets_s=(REQUEST_S,))) == 0.0
    assert of(replace(BUSY, budgets_s=(REQUEST_S + 0.01,))) > 0.0


def test_without_a_backlog_nobody_is_delayed():
    assert of(BUSY, 0.0) == 0.0


@pytest.mark.parametrize("rate_hz", [20.0, 80.0, 100.0, 120.0])
def test_it_rises_with_the_backlog(rate_hz):
    demand = replace(BUSY, rate_hz=rate_hz)
    limit_s = demand.budget_s - REQUEST_S
    assert rising([of(demand, share * limit_s) for share in np.linspace(0.0, 1.0, 20)])


def test_it_rises_with_the_rate():
    assert rising([of(replace(BUSY, rate_hz=rate_hz), 0.1) for rate_hz in range(10, 150, 10)])


def test_it_rises_with_burstiness_while_the_engine_can_keep_up():
    assert rising([of(replace(BUSY, cv2=cv2), 0.03) for cv2 in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)])


def test_it_falls_as_newcomers_have_more_time():
    budgets = (0.8, 0.4, 0.2, 0.15, 0.1)
    assert rising([of(replace(BUSY, budgets_s=(budget_s,))) for budget_s in budgets])


def test_each_budget_counts_for_its_share():
    mixed = of(replace(BUSY, budgets_s=(0.1, 0.4)))
    apart = [of(replace(BUSY, budgets_s=(budget_s,))) for budget_s in (0.1, 0.4)]
    assert mixed == pytest.approx(sum(apart) / 2)


def test_each_budget_has_a_backlog_of_its_own():
    demand = replace(BUSY, budgets_s=(0.1, 0.4))
    tight, loose = (of(replace(BUSY, budgets_s=(budget_s,)), 0.05) for budget_s in (0.1, 0.4))
    assert price_of(demand).given([0.05, 0.05]).per_second == pytest.approx((tight + loose) / 2)
    assert price_of(demand).given([0.0, 0.05]).per_second == pytest.approx(loose / 2), (
        "they can overtake"
    )


def test_a_budget_that_is_too_small_takes_its_backlog_with_it():
    demand = replace(BUSY, budgets_s=(REQUEST_S / 2, 0.1, 0.4))
    expected = price_of(replace(BUSY, budgets_s=(0.1, 0.4))).given([0.03, 0.05]).per_second
    assert price_of(demand).given([0.02, 0.03, 0.05]).per_second == pytest.approx(expected * 2 / 3)


def test_newcomers_can_wait_for_what_a_request_seldom_leaves_of_their_budget():
    erratic = price_of(BUSY, seldom_s=5 * REQUEST_S)
    assert erratic.given([0.1]).per_second == pytest.approx(
        of(replace(BUSY, budgets_s=(0.16,)), 0.1)
    )


def test_who_can_be_in_time_by_luck_alone_counts():
    demand = replace(BUSY, budgets_s=(1.01 * REQUEST_S,))
    erratic = price_of(demand, seldom_s=5 * REQUEST_S)
    assert erratic.given([MIN_LIMIT * REQUEST_S]).per_second == pytest.approx(FLOOD)


def test_small_samples_are_not_believed_beyond_reason():
    for measured, believed in ((0.0, MIN_CV2), (1e9, MAX_CV2)):
        assert of(replace(BUSY, cv2=measured)) == of(replace(BUSY, cv2=believed))


@pytest.mark.parametrize(
    ("demand", "backlog_s"),
    [
        (replace(BUSY, rate_hz=10_000.0), 0.1),  # far more than the engine can do
        (BUSY, 0.2),  # a backlog beyond any newcomer's budget
        (replace(BUSY, rate_hz=300.0, cv2=MIN_CV2), 0.1),
    ],
)
def test_in_a_flood_it_is_the_accuracy_that_the_time_would_have_made(demand, backlog_s):
    assert of(demand, backlog_s) == pytest.approx(FLOOD, rel=1e-4)


@pytest.mark.parametrize("rho", [0.1, 0.25, 0.4])
def test_nobody_is_lost_who_does_not_come(rho):
    """Behind a backlog that is too long already, another second is too long for as many seconds as
    it takes to be worked off, and costs whoever comes in them."""
    demand = replace(BUSY, rate_hz=rho / REQUEST_S)
    lost_hz = demand.rate_hz / (1 - rho)
    assert of(demand, 1.0) == pytest.approx(CAUTION * ACCURACY * lost_hz)


def test_it_is_proportional_to_accuracy():
    assert price_of(BUSY, 2 * ACCURACY).given([0.05]).per_second == pytest.approx(2 * of(BUSY))


DEPTHS = [(REQUEST_S, ACCURACY), (2 * REQUEST_S, 0.6), (3 * REQUEST_S, 0.65)]


def test_it_is_at_least_what_others_gain_in_depth():
    demand = replace(BUSY, rate_hz=60.0, budgets_s=(0.2, 0.4))
    model, first_only = price_of(demand), price_of(demand)
    model.add_depth(DEPTHS)
    for total_s in (0.0, 0.02, 0.1, 0.3):
        deep = DepthPrice(DEPTHS, 60.0, 1.0, 0.3 - REQUEST_S).at(total_s)
        for backlogs_s in ([0.0, 0.0], [0.01, 0.02], [0.1, 0.3]):
            lost = first_only.given(backlogs_s).per_second
            assert model.given(backlogs_s, total_s).per_second == pytest.approx(max(lost, deep))


def test_others_gain_nothing_in_depth_while_arrivals_find_the_engine_idle():
    model = price_of(replace(BUSY, busy_share=0.0))
    model.add_depth(DEPTHS)
    assert model.given([0.1], 0.1).per_second == 0.0


def test_an_upgrade_pays_for_all_of_its_run():
    model = price_of(replace(BUSY, rate_hz=60.0, budgets_s=(0.2, 0.4)))
    model.add_depth(DEPTHS)
    for cost in (model.given([0.0, 0.0]), model.given([0.18, 0.38], 0.4)):
        assert cost.of_upgrade(0.02) == cost.of_run(0.02, 0.02) > 0.0


@pytest.mark.parametrize(("seconds", "extra_s"), [(0.02, 0.02), (0.05, 0.02), (0.05, 0.05)])
def test_time_that_cannot_be_taken_back_costs_while_it_delays_the_next_newcomer(seconds, extra_s):
    model = price_of(replace(BUSY, rate_hz=60.0, budgets_s=(0.2, 0.4)))
    model.add_depth(DEPTHS)
    idle = model.given([0.0, 0.0])
    comes_s = np.random.default_rng(0).exponential(1.0 / model.rate_hz, 100_000)
    waits_s = np.maximum(0.0, seconds - comes_s) - np.maximum(0.0, seconds - extra_s - comes_s)
    least = model.dual * float(waits_s.mean())
    assert idle.of_time(extra_s) < least < model.dual * extra_s
    assert idle.of_committed(seconds, extra_s) == pytest.approx(least, rel=0.02)
    assert idle.of_run(seconds, extra_s) == pytest.approx(
        idle.of_committed(seconds, extra_s) + idle.blocked(seconds)
    )
    assert idle.of_committed(seconds, -0.01) == idle.of_time(-0.01), "it is given back"


# ---- runs that cannot be stopped ----------------------------------------------------------------


def test_a_run_that_nobody_has_to_wait_for_costs_what_it_adds():
    price = price_of(BUSY)
    assert price.given([0.04]).of_run(0.19, 0.05) == pytest.approx(
        price.given([0.065]).per_second * 0.05
    ), "at the price of the middle of it"
    assert price.given([0.04]).of_run(0.19, -0.01) == pytest.approx(
        -price.given([0.04]).per_second * 0.01
    )


def test_who_comes_before_everybody_waits_for_the_run():
    """In 50 ms 40 ms of work come, half of which is there on average."""
    price = price_of(BUSY)
    assert price.rho == pytest.approx(0.8)
    assert price.given([0.0]).blocked(0.05) == pytest.approx(price.given([0.02]).per_second * 0.04)
    assert price.given([0.0]).of_run(0.05, 0.01) == price.given([0.0]).blocked(0.05)
    assert price.given([0.001]).blocked(0.05) == 0.0, "it has to wait for it anyway"
    shares = [price.given([0.0]).blocked(seconds) / seconds for seconds in (0.01, 0.05, 0.1)]
    assert shares == sorted(shares), "the longer, the dearer a second"


def test_a_longer_one_costs_those_who_come_early_in_it():
    """Of arrivals at 80/s with 190 ms to wait, those in the first 60 of 250 ms are late."""
    price = price_of(BUSY)
    blocked = price.given([0.04]).of_run(0.25, 0.05) - price.given([0.04]).of_run(0.19, 0.05)
    assert blocked == pytest.approx(price.given([0.04]).blocked(0.25))
    assert blocked == pytest.approx(CAUTION * ACCURACY * 80 * 0.06)


# ---- the ruin -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [1.0, 1.0 - 1e-12, 1.0 + 1e-12])
def test_a_fair_walk_is_ruined_in_proportion(rho):
    demand = Demand(rho / REQUEST_S, 1.0, (0.11,))
    for share in (0.0, 0.3, 0.999):
        assert of(demand, share * 0.1) == pytest.approx(FLOOD * share, rel=1e-5)


def test_odds_beyond_what_a_float_can_hold_are_certainties():
    idle, hopeless = (Demand(rate_hz, 0.0, (1e6,)) for rate_hz in (1e-3, 1e9))
    assert of(idle, 0.9e6) < 1e-12 * FLOOD
    assert of(hopeless, 0.1e6) == pytest.approx(FLOOD)


def ruined(theta_per_s: float, backlog_s: float, limit_s: float, rng: np.random.Generator) -> float:
    """How many of many walks with drift ``-theta * variance / 2`` reach the limit before zero."""
    step_s = limit_s / 100
    # Of a walk with steps of +-step, the exponent is ln(down / up) / step.
    up = 1 / (1 + math.exp(theta_per_s * step_s))
    position = np.full(2000, round(backlog_s / step_s))
    while np.any(inside := (position > 0) & (position < 100)):
        steps = np.where(rng.random(int(inside.sum())) < up, 1, -1)
        position[inside] += steps
    return float(np.mean(position >= 100))


@pytest.mark.parametrize("rho", [0.8, 0.95, 1.0, 1.05, 1.3])
@pytest.mark.parametrize("cv2", [0.5, 2.0])
def test_the_ruin_is_that_of_a_random_walk(rho, cv2):
    backlog_s, budget_s = 0.06, 0.2
    limit_s = budget_s - REQUEST_S
    theta = 2 * (1 - rho) / (rho * REQUEST_S * cv2)
    share = ruined(theta, backlog_s, limit_s, np.random.default_rng(7))
    backlog_s = round(backlog_s / limit_s * 100) / 100 * limit_s  # where the walks begin
    demand = Demand(rho / REQUEST_S, cv2, (budget_s,))
    assert of(demand, backlog_s) / FLOOD == pytest.approx(share, abs=0.04)


@given(
    rate_hz=st.just(0.0) | st.floats(1e-9, 1e9),
    cv2=st.floats(0.0, 1e12),
    budgets_s=st.lists(st.floats(-10.0, 1e9), max_size=6),
    backlog_s=st.floats(0.0, 1e9),
    request_s=st.floats(1e-9, 1e6),
    accuracy=st.just(0.0) | st.floats(1e-9, 1.0),
)
def test_it_is_between_nothing_and_a_floods(
    rate_hz, cv2, budgets_s, backlog_s, request_s, accuracy
):
    demand = Demand(rate_hz, cv2, tuple(sorted(budgets_s)))
    toll = price_of(demand, accuracy, request_s).given([backlog_s] * len(budgets_s))
    value = toll.per_second
    assert 0.0 <= value <= CAUTION * accuracy / request_s * (1 + 1e-12)


@given(
    st.floats(0.1, 1000.0),
    st.floats(0.0, 20.0),
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6),
)
def test_more_backlog_never_makes_time_cheaper(rate_hz, cv2, backlogs):
    demand = Demand(rate_hz, cv2, (0.2,))
    values = [of(demand, backlog_s) for backlog_s in sorted(backlogs)]
    assert all(high >= low - 1e-9 * FLOOD for low, high in pairwise(values))


def test_a_delay_costs_those_who_wait_as_often_as_something_holds_runs_up():
    safe, exposed = (price_of(BUSY).given([0.05], 0.05, hz) for hz in (0.0, 2.0))
    lost = exposed.of_committed(0.010, 0.004) - safe.of_committed(0.010, 0.004)
    assert lost == pytest.approx(HOLD_UP_WEIGHT * ACCURACY * 2.0 * 0.004)
    assert exposed.of_committed(0.010, -0.004) == safe.of_committed(0.010, -0.004)
