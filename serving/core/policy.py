"""The vocabulary of scheduling: what a policy sees, and what it may answer.

A policy is a pure function from a snapshot to a decision; the executor carries decisions out.

    waiting --Run(stem)--> row of a cohort --Run(head)--> left, answered
                            |   ^       |
                  Run(stack)'---'       |--Run(head), streaming--> row with an answer
                                        |                         |   ^        |
                                        |         Run(stack, head)'---'        |--Conclude--> left
                                        '--Run(head, hold)--> held             |
                                                             |   ^             |
                                              Run(exit, hold)'---'-------------'

A *streaming* request stays where it is when a head has answered it, unless that was at its
``max_depth``. From then on nothing is owed to it: it may go deeper, with a head at each exit, and
it may be concluded at any time and at no cost.

A *held* request has an answer in hand and no features on the device. Nothing is owed to it either:
it may be run again from its image, to an exit of a larger input, by a fused segment. That answer is
the better one if it is in time; whether or not the run ends, the gateway sends the best one when it
is to be concluded (``Request.conclude_by_s``).
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
    """A batch of requests, as rows, whose features are on the device, all at one depth."""

    id: int
    depth: int
    requests: tuple[Request, ...]
    model: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """A request with an answer in hand, of exit ``depth`` of ``model``; only its image is kept."""

    request: Request
    model: int
    depth: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A policy's view of an engine: everything that a decision depends on but the latency model."""

    now_s: float
    waiting: tuple[Request, ...]
    """Waiting requests, by deadline, then by id."""
    cohorts: tuple[Cohort, ...]
    answered: Mapping[int, int] = field(default_factory=dict)
    """Deepest exit that a request has been answered at, by request id, for streaming requests in
    cohorts."""
    demand: Demand = UNKNOWN
    """Demand as it was measured."""
    held: tuple[Held, ...] = ()
    """Requests with an answer in hand, by the instants at which they are concluded, then by id. All
    of these are to come."""
    virtual_s: Mapping[str, float] = field(default_factory=dict)
    """Virtual time of each principal that waits or is in a cohort; see ``fair_shares``. Empty where
    there is only one, and no stream."""
    stream_turns: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Order in which the streams of those who wait last had engine time, by ``Request.stream_key``;
    what is not here has had none. What is of no stream is one stream more. Empty where only such
    wait."""
    num_parked: int = 0
    """Number of cohorts on the device that no decision can be about now, because those of other
    principals go first."""


class Why(NamedTuple):
    """The reason of a decision: a sentence and the numbers in it.

    They are put together only when somebody reads them.
    """

    text: str
    numbers: tuple[float, ...] = ()

    def __str__(self) -> str:
        return self.text.format(*self.numbers)


UNSAID = Why("")
"""Reason of a decision whose policy gives none."""


@dataclass(frozen=True, slots=True)
class Run:
    """A decision to run ``segment`` for ``requests``.

    These are all rows of ``cohort``, with a head also some of them, or waiting requests, or, with a
    fused segment, held ones. Whom a head answers leaves, but for streaming requests that may go
    deeper, and for all that are to be held.
    """

    segment: Segment
    requests: tuple[Request, ...]
    cohort: int | None
    why: Why = field(default=UNSAID, compare=False)
    hold: bool = False
    """Whether those who would leave, answered in time, stay with that answer in hand. There is a
    bound on how many are held; the others leave."""


@dataclass(frozen=True, slots=True)
class Merge:
    """A decision to make these cohorts, all at one depth, one.

    Its rows are in this order, and its id is the first one's. There must not be more rows than the
    runner's largest batch.
    """

    cohorts: tuple[int, ...]
    why: Why = field(default=UNSAID, compare=False)


@dataclass(frozen=True, slots=True)
class ShedRequests:
    """A decision to end these requests without an answer."""

    requests: tuple[Request, ...]
    reason: ShedReason
    retry_after_s: float
    why: Why = field(default=UNSAID, compare=False)


@dataclass(frozen=True, slots=True)
class Conclude:
    """A decision to end these requests, streaming or held, with the best answer they have.

    Each has one.
    """

    requests: tuple[Request, ...]
    why: Why = field(default=UNSAID, compare=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """A decision to do nothing until something arrives, or until an instant.

    Whichever comes first ends it.
    """

    until_s: float = math.inf
    why: Why = field(default=UNSAID, compare=False)


Decision = Run | Merge | ShedRequests | Conclude | Wait


class Policy(Protocol):
    """A scheduler: it chooses what an idle executor does next.

    Streaming and held requests are its to conclude: the executor ends a streaming one only when it
    is answered at its ``max_depth`` or by a fused run, and a held one only when it has to be sent.
    """

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Return the next action, as a pure function: the same arguments give the same decision."""
