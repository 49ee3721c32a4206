"""The vocabulary of scheduling: what a policy sees, and what it may answer.

A policy is a pure function from a snapshot to a decision; the executor carries decisions out.

    waiting --Run(stem)--> row of a cohort --Run(head)--> left, answered
                            |   ^       |
                  Run(stack)'---'       '--Run(head), streaming--> row with an answer
                                                                  |   ^        |
                                                  Run(stack, head)'---'        '--Conclude--> left

A *streaming* request stays where it is when a head has answered it, unless that was at its
``max_depth``. From then on nothing is owed to it: it may go deeper, with a head at each exit, and
it may be concluded at any time and at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from serving.core.demand import UNKNOWN, Demand
from serving.core.errors import ShedReason
from serving.core.latency import Latency
from serving.core.request import Request
from serving.core.segment import Segment


@dataclass(frozen=True, slots=True)
class Cohort:
    """Requests whose features are on the device, at one depth, as rows of one batch."""

    id: int
    depth: int
    requests: tuple[Request, ...]
    model: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a decision depends on but the latency model."""

    now_s: float
    waiting: tuple[Request, ...]
    """By deadline, then by id."""
    cohorts: tuple[Cohort, ...]
    answered: Mapping[int, int] = field(default_factory=dict)
    """Request id -> the deepest exit it has been answered at: of streaming requests in cohorts."""
    demand: Demand = UNKNOWN
    """What arrives, as measured."""


class Why(NamedTuple):
    """Why a policy decided so: a sentence and the numbers in it, put together only when somebody
    reads them."""

    text: str
    numbers: tuple[float, ...] = ()

    def __str__(self) -> str:
        return self.text.format(*self.numbers)


UNSAID = Why("")


@dataclass(frozen=True, slots=True)
class Run:
    """Run ``segment`` for ``requests``: all rows of ``cohort``, with a head also some of them, or
    waiting requests. Whom a head answers leaves, but for streaming requests that may go deeper."""

    segment: Segment
    requests: tuple[Request, ...]
    cohort: int | None
    why: Why = field(default=UNSAID, compare=False)


@dataclass(frozen=True, slots=True)
class Merge:
    """Make these cohorts, all at one depth, one: rows in this order, under the first one's id.
    There must not be more rows than the runner's largest batch."""

    cohorts: tuple[int, ...]
    why: Why = field(default=UNSAID, compare=False)


@dataclass(frozen=True, slots=True)
class ShedRequests:
    """End these without an answer."""

    requests: tuple[Request, ...]
    reason: ShedReason
    retry_after_s: float
    why: Why = field(default=UNSAID, compare=False)


@dataclass(frozen=True, slots=True)
class Conclude:
    """End these streaming requests with the deepest answer they have; each has one."""

    requests: tuple[Request, ...]
    why: Why = field(default=UNSAID, compare=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something arrives, or until an instant, whichever comes first."""

    until_s: float = math.inf
    why: Why = field(default=UNSAID, compare=False)


Decision = Run | Merge | ShedRequests | Conclude | Wait


class Policy(Protocol):
    """Chooses what an idle executor does next. Streaming requests are its to conclude: the executor
    ends one only when it is answered at its ``max_depth`` or by a fused run."""

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Pure: the same arguments give the same decision."""
