"""Parts of one request: many requests that come at one instant and are due at another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import segment as segments
from serving.core.request import Request
from tests.properties import examples
from tests.serving.world import (
    FUSED_GAIN,
    NUM_EXITS,
    OFFERS,
    FakeClock,
    FakeRunner,
    World,
    batching,
    cost_s,
    depth_of,
    make_policy,
)


def offering(offer: Any) -> Callable[[], FakeRunner]:
    return lambda: FakeRunner(FakeClock(), **offer)


RUNNERS: dict[str, Callable[[], FakeRunner]] = {
    **{name: offering(offer) for name, offer in OFFERS.items()},
    "batching": lambda: FakeRunner(FakeClock(), batching(0.5), batch_sizes=(1, 2, 4, 8)),
}


def answered_at(
    runner: FakeRunner, count: int, budget_s: float, deepest: int = NUM_EXITS
) -> list[int]:
    """The depths of so many parts; 0 for one without an answer."""
    world = World(runner, 64, make_policy(runner))
    parts = [Request(id, 0.0, budget_s, 1, deepest, group=0) for id in range(count)]
    results = world.play(parts)
    return [depth_of(results[part.id]) for part in parts]


SHALLOW_S = cost_s(segments.fused_exit(1))
FULL_S = cost_s(segments.fused_exit(NUM_EXITS))


@pytest.mark.parametrize("name", RUNNERS)
@given(count=st.integers(2, 16), per_part=st.floats(0.2, 4.0))
@examples(100)
def test_none_is_left_out_for_the_depth_of_another(name: str, count: int, per_part: float) -> None:
    """As many are answered as if none could go deeper than the first exit."""
    budget_s = count * per_part * SHALLOW_S
    depths = answered_at(RUNNERS[name](), count, budget_s)
    shallow = answered_at(RUNNERS[name](), count, budget_s, deepest=1)
    assert sum(map(bool, depths)) == sum(shallow)


@pytest.mark.parametrize("name", RUNNERS)
def test_all_are_answered_where_there_is_time_for_their_first_exits(name: str) -> None:
    depths = answered_at(RUNNERS[name](), 9, 10 * SHALLOW_S / FUSED_GAIN)
    assert 0 not in depths


@pytest.mark.parametrize("name", RUNNERS)
def test_what_time_is_left_makes_all_of_them_deep(name: str) -> None:
    """Though so many at once, the first that a server sees, look like a flood."""
    assert answered_at(RUNNERS[name](), 9, 11 * FULL_S / FUSED_GAIN) == [NUM_EXITS] * 9


@pytest.mark.parametrize("name", RUNNERS)
def test_more_time_never_answers_fewer(name: str) -> None:
    budgets_s = [9 * SHALLOW_S * tenth / 10 for tenth in range(3, 40, 4)]
    answered = [sum(map(bool, answered_at(RUNNERS[name](), 9, budget_s))) for budget_s in budgets_s]
    assert answered == sorted(answered)
