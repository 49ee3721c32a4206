"""What defines each baseline, by literal examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from loadtest.baselines import batching
from loadtest.baselines.alert import Alert, SlowdownFilter, StagedAlert
from loadtest.baselines.exits import FusedExits
from loadtest.baselines.fixed import Aimd, FixedPoint
from loadtest.baselines.scaling import FIRST_WINDOW_S, HEADROOM, AccuracyScaling
from loadtest.baselines.slack import Choice, Rank, SlackPolicy, maxacc, maxbatch, slackfit
from loadtest.baselines.stability import StabilityPolicy, mean_stability, stability
from serving.core import segment as segments
from serving.core.ladder import Ladder
from serving.core.latency import Latency, Times
from serving.core.policy import (
    Cohort,
    Conclude,
    Decision,
    Policy,
    Run,
    ShedRequests,
    Snapshot,
    Wait,
)
from serving.core.request import Request
from serving.core.segment import Segment

LADDER = Ladder.of_exits((0.5, 0.7, 0.8))
FUSED = segments.fused_segments(3)
UNITS = segments.unit_segments(3)


class Table(Latency):
    """``Latency``: exit d takes d + 1 seconds, a unit segment one; a batch of b takes
    1 + ``growth`` * (b - 1) times as long; predictions exceed the typical by ``caution``."""

    def __init__(self, growth: float = 0.5, caution: float = 1.0) -> None:
        self.growth, self.caution = growth, caution

    def times(self, segment: Segment, batch: int) -> Times:
        fused = segment.head and segment.start == segments.IMAGE
        typical_s = (segment.stop + 1.0 if fused else 1.0) * (1 + self.growth * (batch - 1))
        return self.caution * typical_s, typical_s


def waiting(*deadlines_s: float, depths: tuple[int, int] = (1, 3)) -> tuple[Request, ...]:
    return tuple(Request(i, 0.0, deadline, *depths) for i, deadline in enumerate(deadlines_s))


def decide(
    policy: Policy, requests: Sequence[Request], now_s: float = 0.0, times: Latency | None = None
) -> Decision:
    return policy.decide(Snapshot(now_s, tuple(requests), ()), times or Table())


def ran(decision: Decision) -> tuple[int, list[int]]:
    """(depth, ids) of a fused run."""
    assert isinstance(decision, Run)
    assert decision.segment in FUSED
    return decision.segment.stop, [request.id for request in decision.requests]


# -- what they share ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("growth", "sizes"),
    [
        (1.0, [1]),  # as on a processor: a batch saves nothing
        (0.92, [1, 4]),  # 2 saves too little, and 8 little more than 4
        (0.5, [1, 2, 4, 8]),
    ],
)
def test_batches_must_pay(growth: float, sizes: list[int]) -> None:
    exits = FusedExits(FUSED, LADDER, (1, 2, 4, 8))
    assert exits.paying_sizes(exits.seconds(Table(growth), (0, 2))) == sizes


def test_who_is_late_by_caution_alone_still_gets_a_chance() -> None:
    policy = FixedPoint(FUSED, LADDER, (1, 2), (0, 1), batching.clockwork)
    assert ran(decide(policy, waiting(2.1), times=Table(caution=1.5))) == (1, [0])
    shed = decide(policy, waiting(1.9, 2.1), times=Table(caution=1.5))
    assert isinstance(shed, ShedRequests)
    assert [request.id for request in shed.requests] == [0]


# -- batches --------------------------------------------------------------------------------------


def seconds(batch: int) -> float:
    """2 alone, 3, 5, 9 for 2, 4, 8."""
    return 1.0 + batch


@pytest.mark.parametrize(
    ("deadlines_s", "ids"),
    [
        ([2], [0]),
        ([9, 9, 9], [0, 1]),  # the largest that is filled, at once
        ([5, 5, 5, 5], [0, 1, 2, 3]),
        ([4.9, 5, 5, 5], [0, 1]),  # no batch of four is in time for all
        ([2, 6, 6, 6, 6], [1, 2, 3, 4]),  # a batch of four is worth more than the head
        ([2, 7, 7, 7, 7], [0]),  # but if it can wait, nobody is lost
        ([3, 4, 9, 9, 9, 9], [0, 1]),
    ],
)
def test_clockwork(deadlines_s: list[float], ids: list[int]) -> None:
    batch = batching.clockwork(waiting(*deadlines_s), 0.0, [1, 2, 4], seconds)
    assert [request.id for request in batch] == ids


@pytest.mark.parametrize(
    ("batcher", "deadlines_s", "expected"),
    [
        # Nexus waits for a full batch, Proteus for the next larger one.
        (batching.nexus, [20], 15.0),
        (batching.proteus, [20], 17.0),
        (batching.nexus, [20, 20], 15.0),
        (batching.proteus, [20, 20], 15.0),
        (batching.nexus, [5, 20], [0, 1]),
        (batching.proteus, [5, 20], [0, 1]),
        (batching.nexus, [4], [0]),
        (batching.proteus, [4], 1.0),
        (batching.nexus, [20] * 5, [0, 1, 2, 3]),
        (batching.proteus, [20] * 5, [0, 1, 2, 3]),
    ],
)
def test_waiting_for_more(
    batcher: batching.Batcher, deadlines_s: list[float], expected: float | list[int]
) -> None:
    batch = batcher(waiting(*deadlines_s), 0.0, [1, 2, 4], seconds)
    assert (batch if isinstance(batch, float) else [r.id for r in batch]) == expected


def test_where_batches_do_not_pay_nobody_waits_for_one() -> None:
    for batcher in (batching.nexus, batching.proteus):
        assert batcher(waiting(100.0), 0.0, [1], seconds) == waiting(100.0)


# -- fixed depth ----------------------------------------------------------------------------------


def test_fixed_depth_and_those_whom_it_does_not_suit() -> None:
    policy = FixedPoint(FUSED, LADDER, (1, 2), (0, 2), batching.clockwork)
    assert ran(decide(policy, waiting(50, 60))) == (2, [0, 1])
    assert ran(decide(policy, waiting(50, depths=(1, 1)))) == (1, [0])
    assert ran(decide(policy, waiting(50, depths=(3, 3)))) == (3, [0])
    shallow, deep = Request(0, 0.0, 50.0, 1, 1), Request(1, 0.0, 60.0, 1, 3)
    assert ran(decide(policy, (shallow, deep))) == (1, [0, 1])  # exit 1 suits both
    picky = Request(2, 0.0, 70.0, 3, 3)
    assert ran(decide(policy, (deep, picky))) == (2, [1])
    assert decide(policy, ()) == Wait()


def test_a_fixed_depth_waits_as_its_batches_do() -> None:
    policy = FixedPoint(FUSED, LADDER, (1, 2), (0, 2), batching.nexus)
    assert decide(policy, waiting(50)) == Wait(50 - 4.5)


def test_aimd_grows_by_one_and_shrinks_by_a_tenth() -> None:
    policy = Aimd(FUSED, LADDER, (1, 2, 4), (0, 1))
    in_time, tight = waiting(*[900.0] * 4), waiting(*[903.0] * 4)
    limits, sizes = [], []
    for turn in range(6):
        sizes.append(len(ran(decide(policy, in_time, 10.0 * turn))[1]))
        limits.append(policy.limit)
    assert sizes == [1, 2, 2, 4, 4, 4]
    assert limits == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]
    # A batch of four takes 5 s; from 900 on it is late at 905, and seen to be so.
    assert ran(decide(policy, tight, 900.0)) == (1, [0, 1, 2, 3])
    assert ran(decide(policy, waiting(990.0), 905.0)) == (1, [0])
    assert policy.limit == pytest.approx(3.6)
    # A batch that was smaller than allowed says nothing about larger ones.
    decide(policy, waiting(990.0), 910.0)
    assert policy.limit == pytest.approx(3.6)


def test_aimd_does_not_take_idleness_for_lateness() -> None:
    policy = Aimd(FUSED, LADDER, (1, 2, 4), (0, 1))
    decide(policy, waiting(5.0), 0.0)
    decide(policy, waiting(990.0), 900.0)
    assert policy.limit == 2.0


# -- accuracy scaling -----------------------------------------------------------------------------


def test_accuracy_scaling_follows_the_demand_of_windows() -> None:
    policy = AccuracyScaling(FUSED, LADDER, (1, 4), batching.clockwork)
    # Throughput at exits 1, 2, 3: 4 in 5 s, 4 in 7.5 s, 4 in 10 s; sped up by 1000.
    throughput_hz = [4000 / 5, 4000 / 7.5, 4000 / 10]

    class Quick(Table):
        def times(self, segment: Segment, batch: int) -> Times:
            seldom_s, typical_s = super().times(segment, batch)
            return seldom_s / 1000, typical_s / 1000

    ids = iter(range(10**6))

    def window(now_s: float, count: int) -> int:
        """``count`` requests are seen at ``now_s``; the depth that they are served at."""
        seen = tuple(Request(next(ids), now_s, now_s + 50.0, 1, 3) for _ in range(count))
        decide(policy, seen, now_s, Quick())
        decide(policy, seen, now_s, Quick())  # seen again, but not counted again
        return policy.point[1]

    assert window(0.0, int(FIRST_WINDOW_S * HEADROOM * throughput_hz[1]) - 1) == 3
    now_s = FIRST_WINDOW_S
    assert window(now_s, int(HEADROOM * throughput_hz[0]) + 400) == 2
    assert window(now_s + 1.0, 40) == 1
    assert window(now_s + 2.0, 0) == 2
    assert window(now_s + 9.0, 0) == 3  # seven windows without anybody


def test_accuracy_scaling_uses_the_quickest_exit_when_none_is_enough() -> None:
    policy = AccuracyScaling(FUSED, Ladder.of_exits((0.5, 0.7, 0.7)), (1,), batching.clockwork)
    assert policy.point == (0, 2)  # exit 3 is no better
    decide(policy, waiting(*[900.0] * 50))
    decide(policy, waiting(900.0), FIRST_WINDOW_S)
    assert policy.point == (0, 1)


# -- by slack -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "deadlines_s", "expected"),
    [
        # Exits 1, 2, 3 take 2, 3, 4 s alone, 3, 4.5, 6 s for two, 5, 7.5, 10 s for four.
        (maxacc, [4, 99, 99, 99], (3, [0])),
        (maxbatch, [5, 99, 99, 99], (1, [0, 1, 2, 3])),
        (slackfit, [5, 99, 99, 99], (1, [0, 1, 2, 3])),
        (maxacc, [5, 99, 99, 99], (3, [0])),
        (maxacc, [6, 99, 99, 99], (3, [0, 1])),
        (maxbatch, [7.4, 99, 99, 99], (1, [0, 1, 2, 3])),
        (slackfit, [7.4, 99, 99, 99], (3, [0, 1])),  # 6 s is two seconds' bucket above 5 s
        (slackfit, [4.2, 99, 99, 99], (3, [0])),
        (maxbatch, [4.2, 99, 99, 99], (1, [0, 1])),
        (slackfit, [50, 99], (3, [0, 1])),
        (slackfit, [2, 99], (1, [0])),
    ],
)
def test_depth_and_batch_by_slack(
    rank: Rank, deadlines_s: list[float], expected: tuple[int, list[int]]
) -> None:
    policy = SlackPolicy(FUSED, LADDER, (1, 2, 4), rank)
    assert ran(decide(policy, waiting(*deadlines_s))) == expected


def test_slackfit_ranks_bucket_then_batch_then_accuracy() -> None:
    choices = [
        Choice(2, 1, 0.8, 3),
        Choice(2, 4, 0.7, 2),
        Choice(2, 4, 0.7, 1),
        Choice(2, 4, 0.6, 1),
        Choice(1, 8, 0.9, 3),
    ]
    assert max(choices, key=slackfit) == Choice(2, 4, 0.7, 1)
    assert max(choices, key=maxacc) == Choice(1, 8, 0.9, 3)
    assert max(choices, key=maxbatch) == Choice(1, 8, 0.9, 3)


def test_slack_policies_batch_only_whom_the_depth_suits() -> None:
    policy = SlackPolicy(FUSED, LADDER, (1, 2), maxacc)
    head, shallow, deep = (
        Request(0, 0.0, 50.0, 1, 3),
        Request(1, 0.0, 60.0, 1, 1),
        Request(2, 0.0, 70.0, 3, 3),
    )
    assert ran(decide(policy, (head, shallow, deep))) == (3, [0, 2])


# -- expected accuracy ----------------------------------------------------------------------------


def test_the_filter_follows_a_slowdown_and_its_spread() -> None:
    steady, slow, erratic = SlowdownFilter(), SlowdownFilter(), SlowdownFilter()
    for turn in range(200):
        steady.observe(1.0)
        slow.observe(1.5)
        erratic.observe(1.0 + (turn % 2))
    assert steady.mean == pytest.approx(1.0)
    assert slow.mean == pytest.approx(1.5, rel=1e-3)
    assert erratic.variance > 5 * steady.variance
    assert steady.in_time(1.0, 1.0) == pytest.approx(0.5)
    assert steady.in_time(1.0, 1.2) > 0.99
    assert slow.in_time(1.0, 1.2) < 0.01
    sigma = math.sqrt(steady.variance)
    assert steady.in_time(2.0, 2.0 * (1.0 + sigma)) == pytest.approx(0.8413, abs=1e-3)


@pytest.mark.parametrize(("budget_s", "depth"), [(2.2, 1), (3.0, 1), (3.2, 2), (4.02, 2), (4.3, 3)])
def test_alert_takes_the_exit_that_is_worth_most_in_expectation(
    budget_s: float, depth: int
) -> None:
    # At 3.0 s exit 2 would be in time half of the time, which makes it worth 0.35.
    assert ran(decide(Alert(FUSED, LADDER, (1,)), waiting(budget_s))) == (depth, [0])


def test_alert_learns_from_its_own_runs_if_it_was_busy() -> None:
    busy, idle = Alert(FUSED, LADDER, (1,)), Alert(FUSED, LADDER, (1,))
    for turn in range(30):
        requests = tuple(Request(2 * turn + k, turn * 9.0, turn * 9.0 + 100, 1, 3) for k in (0, 1))
        decide(busy, requests, turn * 9.0)
        decide(busy, requests[1:], turn * 9.0 + 6.0)  # 4 s took 6 s
        decide(idle, requests[:1], turn * 9.0)
        decide(idle, (), turn * 9.0 + 6.0)
    lone = (Request(1000, 1000.0, 1004.5, 1, 3),)
    assert ran(decide(idle, lone, 1000.0))[0] == 3
    assert ran(decide(busy, lone, 1000.0))[0] == 1


def staged(policy: StagedAlert, depth: int, now_s: float, request: Request) -> Decision:
    return policy.decide(Snapshot(now_s, (), (Cohort(0, depth, (request,)),)), Table())


def test_staged_alert_gives_up_depth_when_it_is_slow() -> None:
    policy, (request,) = StagedAlert(UNITS, LADDER, (1,)), waiting(5.5)
    assert decide(policy, (request,)) == Run(segments.STEM, (request,), None)
    assert staged(policy, 0, 1.0, request) == Run(segments.stack(1), (request,), 0)
    assert staged(policy, 1, 2.0, request) == Run(segments.stack(2), (request,), 0)
    # On time it would go on to exit 3, half a second later it leaves at exit 2.
    assert staged(policy, 2, 3.0, request) == Run(segments.stack(3), (request,), 0)
    assert staged(policy, 2, 3.9, request) == Run(segments.head(2), (request,), 0)


def test_staged_alert_ends_growing_requests_with_their_first_answer() -> None:
    policy = StagedAlert(UNITS, LADDER, (1,))
    request = Request(0, 0.0, 99.0, 1, 3, streaming=True)
    cohort = Cohort(0, 2, (request,))
    decision = policy.decide(Snapshot(5.0, (), (cohort,), {0: 2}), Table())
    assert decision == Conclude((request,))


# -- several input sizes --------------------------------------------------------------------------

SIZES = Ladder(("64x64", "96x96", "128x128"), ((0.3,), (0.5, 0.6), (0.55,)))
"""By ``Table`` every exit 1 takes 2 seconds, but those of larger sizes so many times as long."""


class SizedTable(Table):
    """A ``Table`` by which size number m takes m + 1 times as long."""

    def times(self, segment: Segment, batch: int) -> Times:
        return tuple((segment.model + 1) * s for s in super().times(segment, batch))  # type: ignore[return-value]


SIZED = [segments.fused_exit(depth).of(number) for number, depth in SIZES.points]
SIZED_UNITS = [
    segment.of(number)
    for number, accuracy in enumerate(SIZES.accuracies)
    for segment in segments.unit_segments(len(accuracy))
]


def ran_at(policy: Policy, *deadlines_s: float) -> tuple[str, list[int]]:
    """(operating point, ids) of a fused run."""
    decision = decide(policy, waiting(*deadlines_s, depths=(1, 2)), times=SizedTable())
    assert isinstance(decision, Run)
    point = (decision.segment.model, decision.segment.stop)
    return SIZES.label(point), [request.id for request in decision.requests]


@pytest.mark.parametrize("point", SIZES.points, ids=SIZES.label)
def test_a_fixed_point_is_of_any_size(point: tuple[int, int]) -> None:
    policy = FixedPoint(SIZED, SIZES, (1, 2), point, batching.clockwork)
    assert ran_at(policy, 50, 60) == (SIZES.label(point), [0, 1])


def test_who_does_not_accept_the_point_is_served_at_the_nearest() -> None:
    policy = FixedPoint(SIZED, SIZES, (1,), (0, 1), batching.clockwork)
    decision = decide(policy, waiting(50.0, depths=(2, 2)), times=SizedTable())
    assert isinstance(decision, Run)
    assert decision.segment == segments.fused_exit(2).of(1)
    assert isinstance(decide(policy, waiting(5.0, depths=(2, 2)), times=SizedTable()), ShedRequests)


@pytest.mark.parametrize(
    ("deadline_s", "point"),
    [(2.5, "64x64/1"), (4.5, "96x96/1"), (6.1, "96x96/2"), (99, "96x96/2")],
)
def test_who_chooses_by_accuracy_takes_the_best_point_that_there_is_time_for(
    deadline_s: float, point: str
) -> None:
    for policy in (
        SlackPolicy(SIZED, SIZES, (1,), maxacc),
        StabilityPolicy(SIZED, SIZES, (1,)),
        Alert(SIZED, SIZES, (1,)),
    ):
        assert ran_at(policy, deadline_s * 1.1) == (point, [0])


def test_staged_alert_starts_at_the_size_of_the_best_exit_and_stays_there() -> None:
    policy, (request,) = StagedAlert(SIZED_UNITS, SIZES, (1,)), waiting(9.0, depths=(1, 2))
    decision = policy.decide(Snapshot(0.0, (request,), ()), SizedTable())
    assert decision == Run(segments.STEM.of(1), (request,), None)
    cohort = Cohort(0, 1, (request,), 1)
    decision = policy.decide(Snapshot(2.0, (), (cohort,)), SizedTable())
    assert decision == Run(segments.stack(2).of(1), (request,), 0)
    tight = StagedAlert(SIZED_UNITS, SIZES, (1,))
    decision = tight.decide(Snapshot(0.0, waiting(3.5, depths=(1, 2)), ()), SizedTable())
    assert isinstance(decision, Run)
    assert decision.segment == segments.STEM


# -- stability ------------------------------------------------------------------------------------


def test_the_stability_score_grows_with_waiting_up_to_a_bound() -> None:
    one = (Request(0, 0.0, 2.0, 1, 1),)
    assert stability(one, 0.0) == pytest.approx(math.exp(-1))
    assert stability(one, 2.0) == pytest.approx(1.0)
    assert stability(one, 200.0) == pytest.approx(10.0)
    assert stability(one * 2, 2.0) == pytest.approx(2.0)


def test_its_mean_over_time_is_the_integral_over_each_stay() -> None:
    request = Request(0, 0.0, 2.0, 1, 1)
    steps = [9.0 * (k + 0.5) / 10_000 for k in range(10_000)]
    mean = sum(stability((request,), at_s) for at_s in steps) / 10_000
    assert mean_stability([(2.0, 9.0)], 9.0) == pytest.approx(mean, rel=1e-4)
    assert mean_stability([(2.0, 9.0)] * 3, 18.0) == pytest.approx(1.5 * mean, rel=1e-4)
    assert mean_stability([], 1.0) == 0.0


def test_edgeserving_batches_where_others_would_wait_long() -> None:
    policy = StabilityPolicy(FUSED, LADDER, (1, 2, 4))
    # Exit 3 for one takes 4 s, and leaves nobody behind.
    assert ran(decide(policy, waiting(4.2))) == (3, [0])
    # Exit 3 for two takes 6 s, exit 1 for four takes 5 s and leaves nobody.
    assert ran(decide(policy, waiting(6.0, 9.0, 9.0, 9.0))) == (1, [0, 1, 2, 3])
    # In 4.2 s there is time for exit 1 of two, or exit 3 of the head: the other has hardly waited.
    assert ran(decide(policy, waiting(4.2, 9.0))) == (1, [0, 1])
