"""Decisions as lines that a person can follow.

1.204310 s | 3 waiting, 12.1 ms left | cohort 7 at depth 2: #41 #43 | run stack_3 on #41 #43: why
1.218310 s | #44 has exit_1@300x300 in hand, 60.3 ms left | run exit_1@428x428 on #44: why

Input sizes are named where there are several.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.core.policy import Conclude, Decision, Merge, Run, ShedRequests, Snapshot, Wait
from serving.core.request import Request
from serving.core.segment import Segment, fused_exit


def describe(snapshot: Snapshot, decision: Decision, sizes: Sequence[str]) -> str:
    """Return one line that says what the policy saw, what it decided and why.

    ``sizes`` are the names of the input sizes, by their numbers.
    """
    parts = [f"{snapshot.now_s:.6f} s"]
    if snapshot.waiting:
        left_ms = (snapshot.waiting[0].deadline_s - snapshot.now_s) * 1e3
        parts.append(f"{len(snapshot.waiting)} waiting, {left_ms:.1f} ms left")
    parts += [
        f"cohort {cohort.id} at depth {cohort.depth}{_at(cohort.model, sizes)}: "
        f"{_ids(cohort.requests)}"
        for cohort in snapshot.cohorts
    ]
    for held in snapshot.held:
        left_ms = (held.request.conclude_by_s - snapshot.now_s) * 1e3
        point = _name(fused_exit(held.depth).of(held.model), sizes)
        parts.append(f"{_ids([held.request])} has {point} in hand, {left_ms:.1f} ms left")
    why = str(decision.why)
    return " | ".join([*parts, _action(decision, sizes) + (f": {why}" if why else "")])


def _name(segment: Segment, sizes: Sequence[str]) -> str:
    """Return the name of a segment, with that of its input size where there are several."""
    return segment.of(0).name + _at(segment.model, sizes)


def _at(model: int, sizes: Sequence[str]) -> str:
    return f"@{sizes[model]}" if len(sizes) > 1 else ""


def _action(decision: Decision, sizes: Sequence[str]) -> str:
    """Return what a decision does, in a few words."""
    match decision:
        case Run():
            hold = " and hold" if decision.hold else ""
            return f"run {_name(decision.segment, sizes)} on {_ids(decision.requests)}{hold}"
        case Merge():
            return f"merge cohorts {', '.join(map(str, decision.cohorts))}"
        case ShedRequests():
            return f"shed {_ids(decision.requests)} ({decision.reason})"
        case Conclude():
            return f"conclude {_ids(decision.requests)}"
        case Wait():
            return (
                "wait"
                if decision.until_s == float("inf")
                else f"wait until {decision.until_s:.6f} s"
            )


def _ids(requests: Sequence[Request]) -> str:
    """Return the ids of requests as ``#41 #43``."""
    return " ".join(f"#{request.id}" for request in requests)
