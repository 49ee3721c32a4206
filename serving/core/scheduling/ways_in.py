"""Ways in: the models through which waiting requests are taken from the image to an exit.

With one model there is one way. Of several, waiting requests are run through the one that gives
most accuracy per second at their exit, the *densest*: the quickest, unless another gives clearly
more. Whoever is *hurried*, without time for that, is run through the quickest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from serving.core.latency import Times
from serving.core.scheduling.path_costs import EPSILON_S, Costs, densest, quickest
from serving.core.useful_exits import UsefulExits


class WayIn(NamedTuple):
    """The way to an exit for waiting requests: through the densest model, or the quickest."""

    costs: Costs
    """Costs of the model that it leads through."""
    sizes: tuple[int, ...]
    """Batch sizes that pay off on that way, smallest first."""
    times: dict[int, Times]
    """Tail and typical seconds from the images to the exit, by these batch sizes."""
    earliest_end_s: float
    """Instant that a single image seldom ends after if it is started now."""
    hurried_before_s: float
    """Deadline before which a request is hurried: this way is typically too slow for it, and there
    is a quicker one. Minus infinity if this is the quickest."""


class WaysIn:
    """The ways in of one decision, at one instant, each found when it is first asked for."""

    def __init__(
        self,
        now_s: float,
        models: Sequence[Costs],
        batch_sizes: Sequence[int],
        useful_exits: Sequence[UsefulExits],
    ) -> None:
        """Find none yet; ``useful_exits`` are those of each of ``models``.

        ``batch_sizes``, smallest first, are those that the runner offers.
        """
        self.models = models
        self.batch_sizes = batch_sizes
        self._now_s = now_s
        self._useful_exits = useful_exits
        self._found: dict[tuple[int, bool, bool], WayIn] = {}

    def to(self, depth: int, streams: bool, hurried: bool = False) -> WayIn:
        """Return the way to exit ``depth``.

        ``streams``: whether features must be left on the device to go on with, as a request needs
        that is answered more than once. ``hurried``: for requests that have no time for the densest
        model.
        """
        key = (depth, streams, hurried)
        way = self._found.get(key)
        if way is None:
            soonest = quickest(self.models, depth, streams)
            costs, hurried_before_s = soonest, -math.inf
            if not hurried:
                costs = densest(self.models, self._useful_exits, soonest, depth, streams)
            sizes = costs.paying_sizes(depth, self.batch_sizes)
            times = {size: costs.path(depth, size, streams=streams) for size in sizes}
            if costs is not soonest:
                hurried_before_s = self._now_s + times[1][1] - EPSILON_S
            way = WayIn(costs, sizes, times, self._now_s + times[1][0], hurried_before_s)
            self._found[key] = way
        return way
