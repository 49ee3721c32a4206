"""Queue of work for something that several principals share, fair between them.

Each principal has a flow of work in it. Flows take turns by start-time fair queueing (Goyal, Vin
and Cheng, SIGCOMM 1996); in a flow, what is due first is first:

    start of a flow     = max(virtual time, finish of what was last taken from it)
    finish              = start + cost / weight
    virtual time        = start of what was last taken

The flow with the least start is next. So whoever always has work waiting gets the share of time
that its weight is of those of all who have; what a principal claims of its deadlines moves nobody
but itself; and who asks seldom does not wait behind who asks often.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_REMEMBERED_FLOWS = 1024
"""Most flows without waiting work of which it is known what they have lately had.

Beyond it, those that have had least are forgotten. A flow owes no more than the cost of its last
piece of work.
"""


@dataclass(order=True, slots=True)
class Waiting(Generic[T]):
    """One piece of work that waits. Costs and instants in seconds."""

    deadline_s: float
    number: int
    item: T = field(compare=False)
    flow: Hashable = field(compare=False)
    cost_s: float = field(compare=False)


class FairQueue(Generic[T]):
    """A queue of pieces of work, each with its flow, its deadline and its estimated cost.

    Not thread-safe. Its methods take time in proportion to what waits.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Waiting[T]]] = {}  # by flow, what is due first first
        self._weights: dict[Hashable, float] = {}  # of the flows in which something waits
        self._finishes: dict[Hashable, float] = {}  # those that lie ahead of the virtual time
        self._virtual_time = 0.0
        self._num_pushed = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def push(
        self, item: T, flow: Hashable, deadline_s: float, cost_s: float, weight: float = 1.0
    ) -> Waiting[T]:
        """Add a piece of work; return it as it waits.

        The flow has ``weight`` from now on, a positive number.
        """
        self._num_pushed += 1
        waiting = Waiting(deadline_s, self._num_pushed, item, flow, cost_s)
        insort(self._waiting.setdefault(flow, []), waiting)
        self._weights[flow] = weight
        return waiting

    def waiting_of(self, flow: Hashable) -> Sequence[Waiting[T]]:
        """Return what waits in a flow, what is due first first."""
        return tuple(self._waiting.get(flow, ()))

    def remove(self, waiting: Waiting[T]) -> bool:
        """Take out a piece of work without doing it; return whether it was still waiting."""
        flow = self._waiting.get(waiting.flow, [])
        if waiting not in flow:
            return False
        flow.remove(waiting)
        self._forget_if_empty(waiting.flow)
        return True

    def first(self) -> Waiting[T] | None:
        """Return what is next, or None if nothing waits."""
        if not self._waiting:
            return None
        flow = min(self._waiting, key=lambda flow: (self._start(flow), self._waiting[flow][0]))
        return self._waiting[flow][0]

    def take(self) -> Waiting[T] | None:
        """Take out what is next, charged to its flow at its cost; return None if nothing waits."""
        waiting = self.first()
        if waiting is None:
            return None
        flow = waiting.flow
        self._virtual_time = self._start(flow)
        self._finishes[flow] = self._virtual_time + waiting.cost_s / self._weights[flow]
        self._waiting[flow].pop(0)
        self._forget_if_empty(flow)
        self._forget_finished()
        return waiting

    def charge(self, flow: Hashable, cost_s: float, weight: float = 1.0) -> None:
        """Correct what a flow has had by what work has cost beyond its estimate.

        That is negative where it has cost less.
        """
        self._finishes[flow] = self._start(flow) + cost_s / self._weights.get(flow, weight)
        self._forget_finished()

    def ahead_s(
        self, flow: Hashable, deadline_s: float, cost_s: float, weight: float = 1.0
    ) -> float:
        """Return the seconds of waiting work that would be done before a newcomer.

        That is what is due before it in its own flow, and of each other flow no more than its share
        of the time until the newcomer is done.
        """
        own_s = sum(
            each.cost_s for each in self._waiting.get(flow, ()) if each.deadline_s <= deadline_s
        )
        per_weight_s = (own_s + cost_s) / weight
        return own_s + sum(
            min(sum(each.cost_s for each in others), per_weight_s * self._weights[other])
            for other, others in self._waiting.items()
            if other != flow
        )

    def displaced_by(self, flow: Hashable) -> Waiting[T] | None:
        """Return what a newcomer to a full queue may take the place of, if anything.

        That is what is due last in the flow in which most waits, by weight, as long as more waits
        there than in the newcomer's flow with it: who fills a queue fills it for itself.
        """
        if not self._waiting:
            return None

        def length(flow: Hashable) -> float:
            return len(self._waiting[flow]) / self._weights[flow]

        longest = max(self._waiting, key=length)
        own = self._waiting.get(flow, ())
        own_weight = self._weights.get(flow, self._weights[longest])
        if longest == flow or length(longest) <= (len(own) + 1) / own_weight:
            return None
        return self._waiting[longest][-1]

    def _start(self, flow: Hashable) -> float:
        return max(self._virtual_time, self._finishes.get(flow, 0.0))

    def _forget_if_empty(self, flow: Hashable) -> None:
        if not self._waiting[flow]:
            del self._waiting[flow], self._weights[flow]

    def _forget_finished(self) -> None:
        """Forget what flows have had that is no more than anybody has."""
        if len(self._finishes) > len(self._waiting):
            ahead = {
                flow: finish
                for flow, finish in self._finishes.items()
                if finish > self._virtual_time
            }
            spare = sorted(ahead.keys() - self._waiting.keys(), key=ahead.__getitem__)
            for flow in spare[: max(0, len(spare) - MAX_REMEMBERED_FLOWS)]:
                del ahead[flow]
            self._finishes = ahead
