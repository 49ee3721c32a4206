"""Steps of the EDF plan: batches that leave, or are run, one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serving.core.latency import Times
from serving.core.policy import Cohort
from serving.core.request import Request
from serving.core.scheduling.path_costs import Costs

NO_TIME: Times = (0.0, 0.0)
"""Times of a step in which nothing runs."""


@dataclass(slots=True)
class PlannedBatch:
    """One step of the plan: a cohort that leaves, or waiting requests that are run to an exit."""

    deadline_s: float
    """Instant by which the step must end: the earliest deadline of the requests that are owed an
    answer, or, if that is too soon, the instant by which the step ends if it is taken now. Infinite
    if nobody is owed an answer."""
    times: Times
    """Tail and typical seconds that the step takes."""
    requests: tuple[Request, ...]
    """Requests of the batch, one for each row."""
    cohort: Cohort | None
    """Cohort that leaves; None for waiting requests."""
    owed: tuple[Request, ...]
    """Requests of the batch that have no answer yet. If there are none, the step takes no time and
    is never due."""
    costs: Costs
    """Costs of the cohort's model, or of the one that waiting requests are run through."""
    to_answer: tuple[Request, ...] = ()
    """Streaming requests that are to be answered at the cohort's depth before it goes on."""
    num_streaming: int = 0
    """Number of requests in the batch that can be answered more than once."""
    slack_before_s: float = math.inf
    """Seconds by which all steps before this one can be put off."""

    @property
    def tail_s(self) -> float:
        """Seconds that the step seldom exceeds."""
        return self.times[0]

    @property
    def min_depth(self) -> int:
        """Shallowest exit that the requests accept, the same for the whole batch."""
        return self.requests[0].min_depth

    @property
    def max_depth(self) -> int:
        """Deepest exit that the requests accept, the same for the whole batch."""
        return self.requests[0].max_depth


Step = tuple[float, float, Times, PlannedBatch | None]
"""A step as it is laid out: the instant that orders it, the instant by which it must end, its tail
and typical seconds, and its ``PlannedBatch`` if a decision may be about it."""
