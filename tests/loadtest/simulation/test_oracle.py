"""The bound, against everything that can be tried on small instances, and against policies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from loadtest.policies.named import POLICIES
from loadtest.simulation.oracle import (
    OperatingCosts,
    _hull,
    most_work,
    operating_costs,
    upper_bound,
)
from loadtest.simulation.simulator import (
    ServiceTimes,
    SimulatedOutcome,
    SimulatedServer,
    floor_of,
    simulate,
)
from serving.core import segment as segments
from serving.core.ladder import Ladder
from serving.core.latency import LatencyModel
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.request import Request
from serving.core.segment import Segment

NUM_EXITS = 4
ACCURACY = (0.50, 0.56, 0.54, 0.60)  # exit 3 is no better than exit 2
LADDER = Ladder.of_exits(ACCURACY)


def make_profile(unit_s: float = 0.003, batch_fixed: float = 0.5) -> LatencyProfile:
    """Every unit segment takes the same time, a fused one nine tenths of its parts."""
    table = {}
    for segment in segments.every_segment(NUM_EXITS):
        one_s = unit_s * len(segment.parts) * (0.9 if len(segment.parts) > 1 else 1.0)
        for size in (1, 2, 4):
            table[segment, size] = Quantiles(
                *[one_s * (batch_fixed + (1 - batch_fixed) * size)] * 3
            )
    return LatencyProfile("fake 1", "nowhere", "2026-01-01", 1, table)


def one_machine(works: Sequence[float], accuracy: Sequence[float]) -> OperatingCosts:
    """Exits that take ``works``, and no batches."""
    depths = tuple(range(1, len(works) + 1))
    return OperatingCosts(tuple(accuracy), {1: tuple(((w, w),) for w in works)}, depths)


# -- the most work --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "work"),
    [
        ([(0, 10, 4)], 4),
        ([(0, 3, 4)], 3),  # dropped at its deadline
        ([(0, 10, 4), (1, 3, 5)], 6),  # interrupted for the urgent one, of which 2 fit
        ([(0, 2, 2), (5, 7, 2)], 4),  # idle in between
        ([(0, 5, 0)], 0),
        ([], 0),
    ],
)
def test_the_most_work_of_a_few_requests(jobs: list[tuple[int, int, int]], work: int) -> None:
    assert most_work(*zip(*jobs, strict=True) if jobs else ([], [], [])) == pytest.approx(work)


def cut(jobs: Sequence[tuple[int, int, int]]) -> int:
    """The smallest cut of the network from requests to unit slots."""
    slots = range(max(deadline for _, deadline, _ in jobs))
    return min(
        len(closed) + sum(min(cap, len(set(range(a, d)) - set(closed))) for a, d, cap in jobs)
        for count in range(len(slots) + 1)
        for closed in itertools.combinations(slots, count)
    )


def random_jobs(rng: np.random.Generator, count: int, horizon: int) -> list[tuple[int, int]]:
    """(arrival, deadline), by arrival."""
    pairs = (sorted(rng.choice(horizon + 1, 2, replace=False)) for _ in range(count))
    return sorted((int(a), int(d)) for a, d in pairs)


@pytest.mark.parametrize("seed", range(30))
def test_the_most_work_is_the_smallest_cut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    jobs = [(a, d, int(rng.integers(0, 5))) for a, d in random_jobs(rng, 5, 8)]
    assert most_work(*zip(*jobs, strict=True)) == pytest.approx(cut(jobs))


# -- the bound ------------------------------------------------------------------------------------


def test_the_hull_leaves_out_what_is_no_better_or_under_a_line() -> None:
    slopes, ends = zip(*_hull([(1, 0.5), (2, 0.4), (3, 0.6), (4, 0.9)]), strict=True)
    assert slopes == pytest.approx((0.5, 0.4 / 3))
    assert ends == (1, 4)


def test_a_lone_request_gets_the_best_exit_that_its_budget_and_its_bounds_allow() -> None:
    costs = one_machine([1, 2, 3, 4], ACCURACY)
    for budget, best in [(0.5, 0.0), (1, 0.5), (2, 0.56), (3, 0.56), (4, 0.6), (9, 0.6)]:
        assert upper_bound([7], [7 + budget], None, costs) == pytest.approx(best)
    assert upper_bound([7], [16], [2], costs) == pytest.approx(0.56)
    assert upper_bound([], [], None, costs) == 0.0


def best_division(
    jobs: Sequence[tuple[int, int]], works: Sequence[int], accuracy: Sequence[float]
) -> float:
    """The best of all ways to divide whole units of work, each request's worth being its hull. All
    data being whole numbers, no division into parts of a unit is better."""
    hulls = []
    for a, d in jobs:
        points = [(w, ap) for w, ap in zip(works, accuracy, strict=True) if w <= d - a]
        hull = _hull(points)
        corners = [0.0, *(end for _, end in hull)]
        values = [0.0]
        for (slope, end), start in zip(hull, corners, strict=False):
            values.append(values[-1] + slope * (end - start))
        hulls.append((corners, values))
    best = 0.0
    for shares in itertools.product(*(range(int(corners[-1]) + 1) for corners, _ in hulls)):
        fits = all(
            sum(x for x, (a, d) in zip(shares, jobs, strict=True) if start <= a and d <= end)
            <= max(0, end - start)
            for start, _ in jobs
            for _, end in jobs
        )
        if fits:
            worth = sum(float(np.interp(x, *hull)) for x, hull in zip(shares, hulls, strict=True))
            best = max(best, worth)
    return best


@pytest.mark.parametrize("seed", range(30))
def test_it_is_the_best_division_of_work(seed: int) -> None:
    rng = np.random.default_rng(seed)
    jobs = random_jobs(rng, 4, 9)
    works = np.cumsum(rng.integers(1, 4, 3)).tolist()
    accuracy = rng.uniform(0.1, 1.0, 3).tolist()
    arrivals_s, deadlines_s = zip(*jobs, strict=True)
    bound = upper_bound(arrivals_s, deadlines_s, None, one_machine(works, accuracy))
    assert bound == pytest.approx(best_division(jobs, works, accuracy))


def test_order_does_not_matter_and_more_of_anything_does_not_lower_it() -> None:
    rng = np.random.default_rng(3)
    arrivals = rng.uniform(0.0, 1.0, 200)
    deadlines = arrivals + rng.uniform(0.01, 0.1, 200)
    depths = rng.integers(1, NUM_EXITS + 1, 200)
    every = segments.every_segment(NUM_EXITS)

    def bound(sizes: tuple[int, ...] = (1, 2), floor: float = 1.0, executors: int = 1) -> float:
        costs = operating_costs(make_profile(), every, LADDER, sizes, floor, executors)
        return upper_bound(arrivals, deadlines, depths, costs)

    costs = operating_costs(make_profile(), every, LADDER, (1, 2))
    shuffled = rng.permutation(200)
    assert upper_bound(
        arrivals[shuffled], deadlines[shuffled], depths[shuffled], costs
    ) == pytest.approx(bound())
    assert upper_bound(arrivals[::2], deadlines[::2], depths[::2], costs) < bound()
    assert upper_bound(arrivals, deadlines + 0.05, depths, costs) > bound()
    assert upper_bound(arrivals, deadlines, None, costs) > bound()
    assert bound((1, 2, 4)) > bound() > bound((1,))
    assert bound(floor=0.8) > bound()
    assert bound(executors=2) > bound()


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="each request needs"):
        upper_bound([0.0, 1.0], [2.0], None, one_machine([1.0], [0.5]))


# -- costs ----------------------------------------------------------------------------------------


def test_costs_are_the_cheapest_of_batches_and_of_paths() -> None:
    def ways(available: Sequence[Segment], limit: int) -> list[list[float]]:
        costs = operating_costs(make_profile(), available, LADDER, (1, 2, 4), floor=0.5)
        return np.array(costs.ways[limit][0]).ravel().tolist()  # to exit 1

    alone_s, pair_s, four_s = (0.5 * 0.9 * 0.009 * growth for growth in (1.0, 1.5, 2.5))
    expected = [alone_s, alone_s, pair_s, pair_s / 2, four_s, four_s / 4]
    fused, units = segments.fused_segments(NUM_EXITS), segments.unit_segments(NUM_EXITS)
    assert ways(fused, 4) == pytest.approx(expected)
    assert ways(fused, 2) == pytest.approx(expected[:4])
    assert ways(units, 1) == pytest.approx([alone_s / 0.9] * 2)
    both = ways(segments.every_segment(NUM_EXITS), 4)
    assert both[:2] == pytest.approx(expected[:2])
    assert both[-2:] == pytest.approx(expected[-2:])
    # In between, some segments in a batch and some alone.
    assert len(both) > len(expected)


def test_a_batch_needs_company_and_time() -> None:
    costs = OperatingCosts((0.5,), {1: (((1.0, 1.0),),), 4: (((1.0, 1.0), (2.0, 0.5)),)}, (1,))
    # Two that meet have time for one each, or for both at once.
    assert upper_bound([0.0, 0.0], [2.0, 2.0], None, costs) == pytest.approx(1.0)
    assert upper_bound([0.0] * 4, [2.0] * 4, None, costs) == pytest.approx(2.0)
    # 1.9 s are too short for the batch: 1.9 s of work at 1 s each.
    assert upper_bound([0.0] * 4, [1.9] * 4, None, costs) == pytest.approx(0.95)
    # Of those that never meet, each takes a second of its own.
    alone = OperatingCosts((0.5,), {1: (((1.0, 1.0),),), 4: (((0.9, 0.1),),)}, (1,))
    assert upper_bound([0.0, 5.0], [0.95, 5.95], None, alone) == 0.0


def test_points_of_several_sizes_and_pairs_that_are_merged() -> None:
    """Two sizes of one exit, which takes 9 and 18 ms."""
    table = {
        (segment.of(number), 1): Quantiles(*[0.003 * (number + 1) * len(segment.parts)] * 3)
        for number in (0, 1)
        for segment in segments.every_segment(1)
    }
    profile = LatencyProfile("fake 1", "nowhere", "2026-01-01", 1, table)
    available = {segment for segment, _ in table}
    sizes, accuracies = ("64x64", "96x96"), ((0.3,), (0.5,))
    apart = Ladder(sizes, accuracies, {(1, 1): {(0, 1): 0.4}})  # worse than the better one alone
    costs = operating_costs(profile, available, apart, (1,))
    assert costs.accuracy == (0.3, 0.5)
    assert np.array(costs.ways[1]).ravel() == pytest.approx([0.009] * 2 + [0.018] * 2)
    merged = Ladder(sizes, accuracies, {(0, 1): {(1, 1): 0.6}})
    costs = operating_costs(profile, available, merged, (1,))
    assert costs.accuracy == (0.3, 0.5, 0.6)
    assert costs.ways[1][2] == ((pytest.approx(0.027), pytest.approx(0.027)),)
    for budget_s, best in [(0.008, 0.0), (0.01, 0.3), (0.02, 0.5), (0.026, 0.5), (0.028, 0.6)]:
        assert upper_bound([0.0], [budget_s], None, costs) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(20))
def test_no_order_of_runs_at_several_sizes_exceeds_it(seed: int) -> None:
    """All orders of runs on one machine: each is a request at a size, whole seconds long."""
    rng = np.random.default_rng(seed)
    works = sorted(rng.integers(1, 4, 2).tolist())
    accuracies = tuple((float(ap),) for ap in np.sort(rng.uniform(0.1, 0.6, 2)))
    pair = accuracies[1][0] + float(rng.uniform(-0.1, 0.3))
    ladder = Ladder(("64x64", "96x96"), accuracies, {(0, 1): {(1, 1): pair}})
    table = {
        (segments.fused_exit(1).of(number), 1): Quantiles(*[float(work)] * 3)
        for number, work in enumerate(works)
    }
    jobs = random_jobs(rng, 3, 8)
    best = max(
        worth_of(order, jobs, works, ladder)
        for count in range(7)
        for order in itertools.permutations(itertools.product(range(3), range(2)), count)
    )
    profile = LatencyProfile("fake 1", "nowhere", "2026-01-01", 1, table)
    costs = operating_costs(profile, {segment for segment, _ in table}, ladder, (1,))
    arrivals_s, deadlines_s = zip(*jobs, strict=True)
    assert best <= upper_bound(arrivals_s, deadlines_s, None, costs) + 1e-9


def worth_of(
    order: Sequence[tuple[int, int]],
    jobs: Sequence[tuple[int, int]],
    works: Sequence[int],
    ladder: Ladder,
) -> float:
    """The worth of runs (request, size) in this order, each begun as soon as it can be."""
    now = 0
    answers: list[list[tuple[int, int]]] = [[] for _ in jobs]
    for request, number in order:
        arrival, deadline = jobs[request]
        now = max(now, arrival) + works[number]
        if now <= deadline:
            answers[request].append((number, 1))
    return sum(map(ladder.answer_ap, answers))


# -- against policies -----------------------------------------------------------------------------


@pytest.mark.parametrize("jitter", [0.0, 0.1])
@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_exceeds_it(name: str, jitter: float) -> None:
    profile, sizes = make_profile(), (1, 2, 4)
    every: tuple[Segment, ...] = segments.every_segment(NUM_EXITS)
    rng = np.random.default_rng(11)
    arrivals = np.cumsum(rng.exponential(0.006, 300)).tolist()
    budgets = rng.choice([0.012, 0.03, 0.08], 300).tolist()
    requests = [
        Request(id, at, at + budget, 1, NUM_EXITS)
        for id, (at, budget) in enumerate(zip(arrivals, budgets, strict=True))
    ]
    outcomes: list[SimulatedOutcome] = []
    server = SimulatedServer(
        POLICIES[name](every, LADDER, sizes, 4),
        LatencyModel(profile),
        ServiceTimes(profile, jitter, rng),
        outcomes.append,
    )
    simulate(requests, server)
    reached = sum(ACCURACY[o.depth - 1] for o in outcomes if o.in_time)
    costs = operating_costs(profile, every, LADDER, sizes, floor_of(jitter))
    bound = upper_bound(arrivals, [r.deadline_s for r in requests], None, costs)
    assert 0.0 < reached <= bound < 300 * max(ACCURACY)
