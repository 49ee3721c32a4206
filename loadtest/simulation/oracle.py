"""An upper bound on the accuracy that can be reached in time, which no schedule can exceed.

It holds for a scheduler that knows all arrivals and never errs.

The sum of the AP of all requests answered in time is at most ``upper_bound``:

1.  **Work.** Take any schedule of one executor, let L(segment, b) be the least that a run on b
    requests or more can take, and let every run that takes T seconds count as T/b seconds of work
    on each of the b requests in it that will be answered in time. At no instant is more than one
    second of work done per second, and all the work on a request lies between its arrival and its
    deadline. So the schedule is, after relaxing, a preemptive one of a single machine on divisible
    work. A request that leaves at exit d has been through the segments of a path to d, one after
    the other within its budget, each in company of requests whose windows overlap with its own.
    The least work of that kind is found by trying all batch sizes for all segments. Where there are
    several input sizes, d is any of their operating points, and its path is one of its own size. An
    answer of two points merged is of two such runs: they are of different sizes, which have no
    segment in common, so that their times and their work add up, and it counts as a point of its
    own. An answer that took in more is worth as much as the best pair of its points
    (``Ladder.answer_ap``), and cost no less work than that.
2.  **Utility.** AP(d) is at most u(x), where x is the work that the request has received, and u the
    increasing upper concave hull over (0, 0) and its points (least work to d, AP(d)). A point that
    is no better than a cheaper one is under the hull and does no harm.
3.  **Greedy.** The vectors of work that a preemptive machine can do between arrivals and deadlines
    are the flows of a network from requests to instants, and so a polymatroid (Megiddo 1974). Cut
    every request's hull into its linear pieces, each an element of its own with its slope as weight
    and its length as bound: still a polymatroid, on which the greedy algorithm, steepest first,
    maximises the sum of weights times work (Edmonds 1970). Since hulls are concave, the elements
    of slope s or more are exactly a cap on each request's work; with F(s) the most work under these
    caps, the maximum is  sum over slopes s of  s * (F(s) - F(the next steeper)).
4.  **F.** The network is convex: the instants that suit a request are an interval. Serving, at each
    instant, the request with the earliest deadline, and dropping what is left at a deadline, is
    then a maximum flow (Glover 1967, with instants in the place of unit slots).

The bound is loose by what the relaxation gives away: batches that come together whenever they
could, answers that are paid by the fraction, and the freedom to interrupt.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import chain, pairwise, product

import numpy as np
import numpy.typing as npt

from serving.core.ladder import Ladder, PointId
from serving.core.latency import LatencyModel
from serving.core.latency_profile import LatencyProfile
from serving.core.scheduling.path_costs import EPSILON_S
from serving.core.scheduling.paths import Paths
from serving.core.segment import Segment

MAX_STEPS = 64
"""Largest number of steps of a ``Ways``.

Where there are more, neighbours are joined, in favour of the bound.
"""
MAX_BUDGETS = 16
"""Largest number of budgets that are told apart; several count as their largest."""

Numbers = Sequence[float] | npt.NDArray[np.float64]
Ways = tuple[tuple[float, float], ...]
"""Ways to an answer: (time, work) in seconds, of longer and longer times and less and less work. An
answer within that time takes no less than that work."""


@dataclass(frozen=True, slots=True)
class OperatingCosts:
    """The least work that operating points cost, alone or two merged, and their accuracy.

    Points are in any order, but the same in each field.
    """

    accuracy: tuple[float, ...]
    """AP of the answer of each point."""
    ways: Mapping[int, tuple[Ways, ...]]
    """Largest batch, ascending -> the ways to each point in batches of up to that size."""
    depths: tuple[int, ...]
    """Depth of each point; of two that are merged the larger depth."""


def operating_costs(
    profile: LatencyProfile,
    available: Collection[Segment],
    ladder: Ladder,
    batch_sizes: Sequence[int],
    floor: float = 1.0,
    num_executors: int = 1,
) -> OperatingCosts:
    """Return the least that points can cost, in batches of up to the largest of ``batch_sizes``.

    On the machine, runs take at least ``floor`` times the profile's median. ``num_executors``
    machines do at most what one does on which an answer takes as long but so many times less work.
    Raises KeyError if the profile lacks an available segment, ValueError if those make no path to
    an exit.
    """
    latency = LatencyModel(profile)
    paths = [
        Paths(available, len(accuracy), number) for number, accuracy in enumerate(ladder.accuracies)
    ]
    sizes = range(1, max(batch_sizes) + 1)
    options: dict[Segment, Ways] = {}
    for segment in available:
        times = [floor * latency.typical(segment, size) for size in sizes]
        least = [min(times[index:]) for index in range(len(times))]
        options[segment] = tuple(
            (run_s, run_s / (size * num_executors))
            for size, run_s in zip(sizes, least, strict=True)
        )
    merged = list(ladder.gains())
    answers = [(point,) for point in ladder.points] + [(first, then) for first, then, _ in merged]

    def ways(answer: Sequence[PointId], limit: int) -> Ways:
        """Return the ways through runs to each of these points, one after the other."""
        of_each = [paths[number].to(depth) for number, depth in answer]
        wholes = (tuple(chain.from_iterable(parts)) for parts in product(*of_each))
        return _thin([way for whole in wholes for way in _along(whole, options, limit)])

    return OperatingCosts(
        tuple([ladder.ap(point) for point in ladder.points] + [ap for *_, ap in merged]),
        {limit: tuple(ways(answer, limit) for answer in answers) for limit in sorted(batch_sizes)},
        tuple(max(depth for _, depth in answer) for answer in answers),
    )


def _along(path: Iterable[Segment], options: Mapping[Segment, Ways], limit: int) -> Ways:
    """Return the ways through these segments, each in a batch of any size up to ``limit``."""
    ways: Ways = ((0.0, 0.0),)
    for segment in path:
        ways = _thin(
            [
                (time_s + run_s, work_s + share_s)
                for time_s, work_s in ways
                for run_s, share_s in options[segment][:limit]
            ]
        )
    return ways


def _thin(ways: Iterable[tuple[float, float]]) -> Ways:
    """Return the ways that no other beats in both time and work; at most ``MAX_STEPS`` of them."""
    front: list[tuple[float, float]] = []
    for time_s, work_s in sorted(ways):
        if not front or work_s < front[-1][1]:
            front.append((time_s, work_s))
    step = math.ceil(len(front) / MAX_STEPS)
    joined = (front[start : start + step] for start in range(0, len(front), step))
    return tuple((neighbours[0][0], neighbours[-1][1]) for neighbours in joined)


def upper_bound(
    arrivals_s: Numbers,
    deadlines_s: Numbers,
    max_depth: Sequence[int] | npt.NDArray[np.int64] | None,
    costs: OperatingCosts,
) -> float:
    """Return the most that the AP of all requests answered in time can sum up to.

    The module's head has the proof. ``arrivals_s``, ``deadlines_s`` and ``max_depth`` have one
    entry per request, in any order; without ``max_depth`` every exit is open to every request.
    Takes O(n log n) for each distinct slope, of which there are at most budgets x batch sizes x
    points. Raises ValueError on lists of unequal length.
    """
    arrivals = np.asarray(arrivals_s, dtype=np.float64)
    deadlines = np.asarray(deadlines_s, dtype=np.float64)
    deepest = max(costs.depths)
    limits = np.full(len(arrivals), deepest) if max_depth is None else np.asarray(max_depth)
    if not len(arrivals) == len(deadlines) == len(limits):
        raise ValueError("each request needs an arrival, a deadline and, if any, a largest depth")
    if len(arrivals) == 0:
        return 0.0
    order = np.argsort(arrivals, kind="stable")
    arrivals, deadlines, limits = arrivals[order], deadlines[order], limits[order]
    budgets, budget_of = _budgets(deadlines - arrivals)
    sizes = list(costs.ways)
    size_of = np.searchsorted(sizes[:-1], _most_company(arrivals, deadlines))
    facts = np.stack([budget_of, size_of, limits], axis=1)
    kinds, kind_of = np.unique(facts, axis=0, return_inverse=True)
    hulls = [
        _hull(_points(costs, budgets[budget], sizes[size], limit))
        for budget, size, limit in kinds.tolist()
    ]
    begins, ends, kind_of = arrivals.tolist(), deadlines.tolist(), kind_of.reshape(-1)
    total = previous_s = 0.0
    for slope in sorted({slope for hull in hulls for slope, _ in hull}, reverse=True):
        cap_of = np.array([_cap(hull, slope) for hull in hulls])
        work_s = most_work(begins, ends, cap_of[kind_of].tolist())
        total += slope * (work_s - previous_s)
        previous_s = work_s
    return total


def _budgets(
    budgets_s: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return at most ``MAX_BUDGETS`` budgets, ascending, and for each request the index of its own.

    A budget that is not among them counts as the next above.
    """
    rounded = np.round(budgets_s, 9)
    values = np.unique(rounded)
    if len(values) > MAX_BUDGETS:
        values = values[np.linspace(0, len(values) - 1, MAX_BUDGETS + 1).astype(int)[1:]]
    return values, np.searchsorted(values, rounded)


def _most_company(
    arrivals_s: npt.NDArray[np.float64], deadlines_s: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Return for each request the most windows that have an instant of its own window in common.

    Its own window counts. Arrivals ascend.
    """
    # Most windows overlap just after an arrival; highest[i]: the most at arrivals i .. i + span.
    gone = np.searchsorted(np.sort(deadlines_s), arrivals_s, side="left")
    highest = np.searchsorted(arrivals_s, arrivals_s, side="right") - gone
    last = np.searchsorted(arrivals_s, deadlines_s, side="right")  # exclusive
    first = np.arange(len(arrivals_s))
    count = np.maximum(last - first, 1)
    most = np.zeros(len(arrivals_s), dtype=np.int64)
    span = 1
    while True:
        within = (count >= span) & (count < 2 * span)
        most[within] = np.maximum(
            highest[first[within]], highest[first[within] + count[within] - span]
        )
        if 2 * span > count.max():
            return most
        highest = np.maximum(highest[: len(highest) - span], highest[span:])
        span *= 2


def _points(
    costs: OperatingCosts, budget_s: float, size: int, limit: int
) -> list[tuple[float, float]]:
    """Return (least work, AP) of each point that can be reached within the budget.

    It is at most ``limit`` deep.
    """
    points = []
    for ways, ap, depth in zip(costs.ways[size], costs.accuracy, costs.depths, strict=True):
        place = bisect_right(ways, (budget_s + EPSILON_S, math.inf))
        if place > 0 and depth <= limit:
            points.append((ways[place - 1][1], ap))
    return points


def _hull(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the increasing part of the upper concave hull of (0, 0) and ``points``.

    All points are of positive x. The hull is in pieces (slope, x at the end), steepest first.
    """
    corners = [(0.0, 0.0)]
    for x, y in sorted(points):
        if y <= corners[-1][1]:
            continue
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) <= _slope(corners[-1], (x, y)):
            corners.pop()
        corners.append((x, y))
    return [(_slope(left, right), right[0]) for left, right in pairwise(corners)]


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    """Return the slope between two points, infinite where the right one is straight above."""
    return (right[1] - left[1]) / (right[0] - left[0]) if right[0] > left[0] else math.inf


def _cap(hull: Sequence[tuple[float, float]], slope: float) -> float:
    """Return the work up to which a hull is at least as steep as ``slope``."""
    return max((end for steepness, end in hull if steepness >= slope), default=0.0)


def most_work(
    arrivals_s: Sequence[float], deadlines_s: Sequence[float], caps_s: Sequence[float]
) -> float:
    """Return the most work that one preemptive machine can do.

    For each request that is at most ``caps_s``, and between its arrival and its deadline. Arrivals
    ascend.
    """
    pending: list[tuple[float, float]] = []  # (deadline, work left): the earliest on top
    now_s = done_s = 0.0
    for next_s, deadline_s, cap_s in zip(
        (*arrivals_s, math.inf), (*deadlines_s, 0.0), (*caps_s, 0.0), strict=True
    ):
        while pending:
            limit_s, left_s = pending[0]
            end_s = now_s + left_s
            if end_s <= limit_s and end_s <= next_s:
                done_s += left_s
                now_s = end_s
                heappop(pending)
            elif limit_s <= next_s:  # what is left of it is dropped
                if limit_s > now_s:
                    done_s += limit_s - now_s
                    now_s = limit_s
                heappop(pending)
            else:
                # It has less work and the same deadline, so that it is still on top.
                pending[0] = (limit_s, end_s - next_s)
                done_s += next_s - now_s
                break
        now_s = next_s
        if cap_s > 0.0:
            heappush(pending, (deadline_s, cap_s))
    return done_s
