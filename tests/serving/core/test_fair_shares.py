"""Virtual times of principals, and the places that they share."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.errors import Overloaded, ShedReason, TooManyRequests
from serving.core.fair_shares import (
    FREE_MULTIPLE,
    MAX_PRINCIPALS,
    MAX_STREAMS,
    Places,
    StreamTurns,
    VirtualTimes,
    refusal,
)
from serving.core.principals import Principal
from serving.core.request import Request


def of(principal: str, share: float = 1.0) -> Request:
    return Request(0, 0.0, 1.0, 1, 1, principal=principal, share=share)


# ---- virtual times ------------------------------------------------------------------------------


def test_time_counts_by_share_and_by_row():
    times = VirtualTimes()
    times.joined("one", ())
    times.joined("two", {"one"})
    times.ran([of("one"), of("one"), of("two", share=4.0)], 0.3)
    assert times.of(["one", "two"]) == pytest.approx({"one": 0.2, "two": 0.025})


def test_who_comes_begins_where_the_furthest_behind_is():
    times = VirtualTimes()
    times.joined("early", ())
    times.ran([of("early")], 5.0)
    times.joined("late", {"early"})
    assert times.of(["late"]) == {"late": 5.0}
    times.ran([of("early")], 1.0)
    times.joined("latest", {"early", "late"})
    assert times.of(["latest"]) == {"latest": 5.0}


def test_a_debt_outlasts_an_absence_and_credit_does_not():
    times = VirtualTimes()
    times.joined("greedy", ())
    times.joined("modest", {"greedy"})
    times.ran([of("greedy")], 3.0)
    times.joined("greedy", {"modest"})  # it had left and comes back
    assert times.of(["greedy", "modest"]) == {"greedy": 3.0, "modest": 0.0}
    times.joined("modest", {"greedy"})
    assert times.of(["modest"]) == {"modest": 3.0}


def test_an_engine_without_work_forgets():
    times = VirtualTimes()
    times.joined("greedy", ())
    times.joined("modest", {"greedy"})
    times.ran([of("greedy")], 3.0)
    times.joined("modest", ())
    times.joined("greedy", {"modest"})
    assert times.of(["greedy", "modest"]) == {"greedy": 3.0, "modest": 3.0}


def test_it_remembers_a_bounded_number():
    times = VirtualTimes()
    times.joined("here", ())
    times.ran([of("here")], 1.0)
    for number in range(3 * MAX_PRINCIPALS):
        times.joined(f"gone {number}", {"here"})
    assert times.of(["here"]) == {"here": 1.0}
    assert len(times._times_s) <= MAX_PRINCIPALS


# ---- streams ------------------------------------------------------------------------------------


def frame(stream: str, principal: str = "a") -> Request:
    return Request(0, 0.0, 1.0, 1, 1, principal=principal, stream=stream)


def test_whoever_ran_longest_ago_has_the_least_order():
    turns = StreamTurns()
    for stream in ("x", "y", "x"):
        turns.ran([frame(stream)])
    orders = turns.of([frame("x"), frame("y"), frame("new"), frame("x", "b")])
    assert orders[("a", "new")] == orders[("b", "x")] < orders[("a", "y")] < orders[("a", "x")]


def test_without_frames_there_are_no_turns():
    turns = StreamTurns()
    turns.ran([frame("x")])
    assert turns.of([frame("")]) == {}
    assert turns.of([frame(""), frame("x")]) == {("a", ""): 0, ("a", "x"): 1}


def test_it_remembers_a_bounded_number_of_streams():
    turns = StreamTurns()
    for number in range(3 * MAX_STREAMS):
        turns.ran([frame(str(number))])
    assert len(turns._orders) <= MAX_STREAMS
    assert turns.of([frame(str(3 * MAX_STREAMS - 1))]) != {("a", str(3 * MAX_STREAMS - 1)): 0}


# ---- places -------------------------------------------------------------------------------------


@given(st.integers(1, 2000))
def test_one_alone_has_them_all_and_no_more(capacity: int):
    for taken in range(capacity):
        assert refusal({"only": taken}.__getitem__, "only", taken, capacity) is None
    reason = refusal(lambda _: capacity, "only", capacity, capacity)
    assert reason is ShedReason.REJECTED_SATURATED


@given(st.integers(8, 512), st.lists(st.integers(0, 3), max_size=2000))
def test_a_newcomer_finds_a_place_beside_any_few(capacity: int, takers: list[int]):
    places = Places(capacity)
    greedy = [Principal(f"greedy {number}", "address") for number in range(4)]
    for taker in takers:
        with contextlib.suppress(Overloaded):
            places.take(greedy[taker])
    if capacity >= FREE_MULTIPLE * (4 * FREE_MULTIPLE + 1):
        places.take(Principal("modest", "address"))


def test_places_come_back():
    places, one = Places(2), Principal("one", "one")
    for _ in range(10):
        places.take(one)
        places.take(one)
        with pytest.raises(Overloaded):
            places.take(one)
        places.leave(one)
        places.leave(one)


def test_a_principals_own_bound_comes_first():
    places, two = Places(100), Principal("two", "two", max_requests=2)
    places.take(two)
    places.take(two)
    with pytest.raises(TooManyRequests, match="two has 2 requests here"):
        places.take(two)
    places.take(Principal("other", "other"))
