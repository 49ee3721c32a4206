"""Decisions in words."""

import pytest

from serving.core.decision_text import describe
from serving.core.errors import ShedReason
from serving.core.policy import (
    Cohort,
    Conclude,
    Decision,
    Held,
    Merge,
    Run,
    ShedRequests,
    Snapshot,
    Wait,
    Why,
)
from serving.core.request import Request
from serving.core.segment import STEM, fused_exit, head, stack

A, B, C = (Request(id, 1.0, 1.1 + id / 100, 1, 5) for id in range(3))
SEEN = "1.050000 s | 1 waiting, 50.0 ms left | cohort 4 at depth 2: #1 #2 | "


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (Run(STEM, (A,), None), "run stem on #0"),
        (Run(head(2), (B,), 4, hold=True), "run head_2 on #1 and hold"),
        (
            Run(stack(3), (B, C), 4, Why("{:.0f} ms to spare", (7.2,))),
            "run stack_3 on #1 #2: 7 ms to spare",
        ),
        (Merge((4, 5)), "merge cohorts 4, 5"),
        (
            ShedRequests((A,), ShedReason.REJECTED_OVERLOAD, 0.1),
            "shed #0 (rejected-overload)",
        ),
        (Conclude((B,)), "conclude #1"),
        (Wait(), "wait"),
        (Wait(1.25), "wait until 1.250000 s"),
    ],
)
def test_each_kind(decision: Decision, words: str) -> None:
    snapshot = Snapshot(now_s=1.05, waiting=(A,), cohorts=(Cohort(4, 2, (B, C)),))
    assert describe(snapshot, decision, ("300x300",)) == SEEN + words


def test_answers_in_hand() -> None:
    snapshot = Snapshot(1.05, (), (), held=(Held(A, 0, 1), Held(B, 1, 2)))
    decision = Run(fused_exit(3).of(1), (A, B), None, Why("why"))
    assert describe(snapshot, decision, ("300x300", "428x428")) == (
        "1.050000 s | #0 has exit_1@300x300 in hand, 50.0 ms left "
        "| #1 has exit_2@428x428 in hand, 60.0 ms left | run exit_3@428x428 on #0 #1: why"
    )


def test_input_sizes_where_there_are_several() -> None:
    snapshot = Snapshot(2.0, (), (Cohort(4, 2, (B,), 1),))
    line = describe(snapshot, Run(STEM, (A,), None), ("300x300", "428x428"))
    assert line == "2.000000 s | cohort 4 at depth 2@428x428: #1 | run stem@300x300 on #0"


def test_an_idle_executor() -> None:
    assert describe(Snapshot(2.0, (), ()), Wait(), ("300x300",)) == "2.000000 s | wait"
