"""Whose turn it is: shares between flows, deadlines within them."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.fair_queue import MAX_REMEMBERED_FLOWS, FairQueue
from tests.properties import examples

Item = tuple[str, int]


def taken(queue: FairQueue[Item], count: int) -> list[Item]:
    """The next ``count``, or all that there are."""
    found = []
    for _ in range(count):
        waiting = queue.take()
        if waiting is None:
            break
        found.append(waiting.item)
    return found


def filled(**flows: list[tuple[float, float]]) -> FairQueue[Item]:
    """A queue with these pieces of work, (deadline, cost), numbered in each flow."""
    queue: FairQueue[Item] = FairQueue()
    for flow, pieces in flows.items():
        for number, (deadline_s, cost_s) in enumerate(pieces):
            queue.push((flow, number), flow, deadline_s, cost_s)
    return queue


def test_one_flow_is_done_by_deadline_and_what_is_due_together_as_it_came():
    queue = filled(a=[(3.0, 1.0), (1.0, 9.0), (2.0, 1.0), (1.0, 1.0)])
    assert taken(queue, 9) == [("a", 1), ("a", 3), ("a", 2), ("a", 0)]
    assert queue.take() is None
    assert queue.first() is None


def test_flows_take_turns_by_what_they_have_had_whatever_they_say_of_their_deadlines():
    queue = filled(hurried=[(0.1, 1.0)] * 6, patient=[(9.0, 2.0)] * 3)
    order = [flow for flow, _ in taken(queue, 6)]
    assert Counter(order) == {"hurried": 4, "patient": 2}, "four seconds each"
    assert order[:3] == ["hurried", "patient", "hurried"]


def test_a_newcomer_does_not_wait_behind_a_flow_that_has_had_more():
    queue = filled(busy=[(0.0, 1.0)] * 50)
    taken(queue, 10)
    queue.push(("rare", 0), "rare", 100.0, 1.0)
    assert ("rare", 0) in taken(queue, 2)


def test_time_in_which_a_flow_asked_for_nothing_is_not_made_up_for():
    queue = filled(busy=[(0.0, 1.0)] * 50)
    taken(queue, 40)
    for number in range(10):
        queue.push(("late", number), "late", 0.0, 1.0)
    assert Counter(flow for flow, _ in taken(queue, 10))["late"] == 5


def test_weights_are_shares():
    queue: FairQueue[Item] = FairQueue()
    for number in range(40):
        queue.push(("one", number), "one", 0.0, 1.0)
        queue.push(("three", number), "three", 0.0, 1.0, weight=3.0)
    assert Counter(flow for flow, _ in taken(queue, 20)) == {"one": 5, "three": 15}


def test_what_work_cost_beyond_its_estimate_is_charged():
    queue = filled(honest=[(0.0, 1.0)] * 20, sly=[(0.0, 0.1)] * 20)
    order = []
    for _ in range(10):
        waiting = queue.take()
        assert waiting is not None
        order.append(waiting.flow)
        queue.charge(waiting.flow, 0.9 if waiting.flow == "sly" else 0.0)
    assert Counter(order) == {"honest": 5, "sly": 5}


def test_what_is_removed_is_gone_and_nobody_has_paid_for_it():
    queue = filled(a=[(1.0, 5.0)], b=[(2.0, 1.0), (3.0, 1.0)])
    first = queue.first()
    assert first is not None
    assert first.item == ("a", 0)
    assert queue.remove(first)
    assert not queue.remove(first)
    assert len(queue) == 2
    assert taken(queue, 9) == [("b", 0), ("b", 1)]


def test_who_fills_a_queue_makes_room_for_others_with_what_is_due_last():
    queue = filled(flood=[(1.0, 1.0), (3.0, 1.0), (2.0, 1.0)], other=[(1.0, 1.0)])
    displaced = queue.displaced_by("new")
    assert displaced is not None
    assert displaced.item == ("flood", 1)
    assert queue.displaced_by("flood") is None, "nor for itself"
    displaced = queue.displaced_by("other")
    assert displaced is not None, "three are more than two"
    queue.remove(displaced)
    assert queue.displaced_by("other") is None, "nothing would be gained"
    assert FairQueue[Item]().displaced_by("new") is None


def test_what_is_remembered_of_flows_is_bounded():
    queue: FairQueue[Item] = FairQueue()
    for number in range(3 * MAX_REMEMBERED_FLOWS):
        queue.charge(number, 1.0)
    assert len(queue._finishes) <= MAX_REMEMBERED_FLOWS
    queue.push(("next", 0), "next", 0.0, 1.0)
    queue.take()
    queue.push(("next", 1), "next", 0.0, 5.0)
    queue.take()
    queue.push(("next", 2), "next", 0.0, 1.0)
    queue.take()
    assert set(queue._finishes) == {"next"}, "the others have had no more than anybody"


PIECES = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0, 10), st.floats(0.01, 3)), max_size=25
)


@examples(200)
@given(PIECES, PIECES, st.tuples(st.sampled_from("abcd"), st.floats(0, 10), st.floats(0.01, 3)))
def test_what_is_ahead_is_at_most_what_is_said_and_one_piece_of_each_flow(before, pieces, newcomer):
    queue: FairQueue[Item] = FairQueue()
    for flow, deadline_s, cost_s in before:
        queue.push((flow, 0), flow, deadline_s, cost_s)
    taken(queue, len(before))
    for flow, deadline_s, cost_s in pieces:
        queue.push((flow, 0), flow, deadline_s, cost_s)
    flow, deadline_s, cost_s = newcomer
    said_s = queue.ahead_s(flow, deadline_s, cost_s)
    queue.push((flow, 1), flow, deadline_s, cost_s)
    ahead_s = 0.0
    while (waiting := queue.take()) is not None and waiting.item[1] == 0:
        ahead_s += waiting.cost_s
    largest_s = max((cost_s for _, _, cost_s in before + pieces), default=0.0)
    assert ahead_s <= said_s + 2 * 3 * largest_s + 1e-9
    assert said_s <= sum(cost_s for _, _, cost_s in pieces) + 1e-9


@examples(200)
@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.lists(st.floats(0.01, 2), min_size=30, max_size=30), min_size=2
    ),
    st.integers(1, 30),
)
def test_flows_that_always_wait_get_equal_time_within_their_largest_pieces(costs, count):
    queue = filled(**{flow: [(0.0, cost_s) for cost_s in each] for flow, each in costs.items()})
    had_s = dict.fromkeys(costs, 0.0)
    for _ in range(count):
        waiting = queue.take()
        assert waiting is not None
        had_s[waiting.flow] += waiting.cost_s
    largest_s = max(max(each) for each in costs.values())
    assert max(had_s.values()) - min(had_s.values()) <= 2 * largest_s + 1e-9


def test_alone_what_is_ahead_is_what_is_due_before():
    queue = filled(a=[(1.0, 1.0), (2.0, 2.0), (5.0, 4.0)])
    assert [queue.ahead_s("a", due_s, 1.0) for due_s in (0.5, 1.0, 3.0, 9.0)] == [0, 1, 3, 7]
    assert queue.ahead_s("b", 0.0, 2.0) == pytest.approx(2.0), "a has no more than its share"
    assert queue.ahead_s("b", math.inf, 100.0) == pytest.approx(7.0), "nor more than there is"
