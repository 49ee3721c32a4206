"""What ways through models there are, and their times against sums written out."""

from __future__ import annotations

import math
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import segment as segments
from serving.core.latency import TAIL_QUANTILE, Latency, LatencyModel, Times
from serving.core.scheduling.path_costs import BATCHING_GAIN, Costs, late_share
from serving.core.scheduling.path_times import NEVER
from serving.core.scheduling.paths import Paths, paths_of
from serving.core.segment import Segment, fused_exit, head, stack
from tests.properties import examples
from tests.serving.world import cost_s, exact_profile

UNITS, FUSED = segments.unit_segments(3), segments.fused_segments(3)
LOOKUPS = {
    # in ms: at a batch of 1, of 2
    segments.STEM: (4, 5),
    stack(1): (3, 4),
    stack(2): (2, 3),
    stack(3): (1, 2),
    head(1): (5, 6),
    head(2): (7, 8),
    head(3): (9, 10),
    fused_exit(1): (11, 12),
    fused_exit(3): (20, 16),
}
"""Unit path to exit 1, 2, 3: 12, 16, 19 ms; in twos 15, 20, 24."""


class Table(Latency):
    """Seldom more than in the table, and typically ``calm`` of it."""

    def __init__(
        self, milliseconds: dict[Segment, tuple[int, int]] = LOOKUPS, calm: float = 1.0
    ) -> None:
        self._milliseconds = milliseconds
        self._decide_feasible = calm
        self.num_asked = 0

    def times(self, segment: Segment, batch: int) -> Times:
        self.num_asked += 1
        seldom_s = self._milliseconds[segment][batch - 1] / 1e3
        return seldom_s, seldom_s * self._decide_feasible


def costs_of(available: Collection[Segment] = tuple(LOOKUPS), table: Table | None = None) -> Costs:
    return Costs(table or Table(), Paths(available, 3))


def ms(value: float) -> object:
    return pytest.approx(value / 1e3)


def exactly(value: float) -> object:
    """Of times that are typical and never exceeded."""
    return pytest.approx((value / 1e3, value / 1e3))


# ---- ways ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "units", "fused", "to_second"),
    [
        (UNITS, True, set(), (segments.unit_path(2),)),
        (FUSED, False, {1, 2, 3}, ((fused_exit(2),),)),
        ((*UNITS, *FUSED), True, {1, 2, 3}, (segments.unit_path(2), (fused_exit(2),))),
        ((*UNITS, fused_exit(1)), True, {1}, (segments.unit_path(2),)),
        ((*FUSED, segments.STEM, head(2)), False, {1, 2, 3}, ((fused_exit(2),),)),
    ],
)
@pytest.mark.parametrize("model", [0, 2])
def test_the_ways_to_an_exit(available, units, fused, to_second, model):
    paths = Paths([segment.of(model) for segment in available], 3, model)
    assert (paths.units, paths.fused) == (units, fused)
    expected = [tuple(segment.of(model) for segment in way) for way in to_second]
    assert list(paths.to(2)) == expected
    streaming = [way for way in expected if len(way) > 1]
    assert list(paths.to(2, streams=True)) == streaming, "a fused run leaves no features"


def test_what_lacks_for_either_way_is_named():
    lacking = {*UNITS, *FUSED} - {stack(2), fused_exit(3)}
    with pytest.raises(ValueError, match="the runner lacks stack_2 and exit_3: it needs every"):
        Paths(lacking, 3)


def test_each_model_has_its_own_ways_and_number_of_exits():
    available = {*UNITS, *(segment.of(1) for segment in segments.fused_segments(2))}
    first, second = paths_of(available)
    assert (first.model, first.num_exits, first.units, first.fused) == (0, 3, True, set())
    assert (second.model, second.num_exits, second.units, second.fused) == (1, 2, False, {1, 2})


def test_models_are_in_their_order_and_one_that_lacks_something_is_refused():
    available = [segment.of(model) for model in (2, 0, 1) for segment in FUSED]
    assert [paths.model for paths in paths_of(available)] == [0, 1, 2]
    with pytest.raises(ValueError, match="lacks head_1@1, stack_1@1, stem@1 and exit_1@1: it"):
        paths_of([*UNITS, head(2).of(1), fused_exit(2).of(1), stack(2).of(1)])


def test_nothing_is_no_way():
    with pytest.raises(ValueError, match="lacks head_1, stack_1, stem and exit_1"):
        paths_of(())


# ---- times --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "unit", "fused", "quickest"),
    [
        (1, (12, 16, 19), (11, math.inf, 20), (11, 16, 19)),
        (2, (15, 20, 24), (12, math.inf, 16), (12, 20, 16)),
    ],
)
def test_the_quickest_path_to_each_exit(batch, unit, fused, quickest):
    costs = costs_of()
    for depth in (1, 2, 3):
        assert costs.unit_path(depth, batch) == exactly(unit[depth - 1])
        assert costs.fused(depth, batch) == exactly(fused[depth - 1])
        assert costs.path(depth, batch) == exactly(quickest[depth - 1])
        assert costs.path(depth, batch, streams=True) == exactly(unit[depth - 1])


def test_an_exit_that_the_model_lacks_is_never_reached():
    costs = costs_of()
    assert costs.path(4, 1) == costs.path(4, 1, streams=True) == NEVER
    assert costs.typical_path(4) == math.inf


def test_where_all_is_fused_nothing_grows():
    table = {fused_exit(depth): (10 * depth, 15 * depth) for depth in (1, 2, 3)}
    costs = costs_of(FUSED, Table(table, calm=0.5))
    assert costs.path(2, 2) == pytest.approx((0.030, 0.015))
    assert costs.unit_path(2, 1) == costs.path(2, 1, streams=True) == NEVER
    assert costs.typical_path(2) == ms(10)
    assert costs.typical_path(2, streams=True) == math.inf


def test_parts_of_a_path():
    costs = costs_of()
    assert costs.stem(2) == ms(5)
    assert costs.stacks(0, 3, 1)[0] == ms(3 + 2 + 1)
    assert costs.stacks(2, 2, 1)[0] == 0
    assert costs.remaining_path(1, 3, 2) == exactly(3 + 2 + 10)
    assert costs.head(2, 0) == 0, "no rows"


@pytest.mark.parametrize(
    ("start", "depth", "batch", "num_streaming", "num_owed", "expected"),
    [
        (1, 2, 1, 0, 1, 2 + (7 - 5)),  # the head moves along
        (1, 3, 2, 0, 2, 3 + 2 + (10 - 6)),
        (1, 3, 2, 1, 2, 3 + 2 + (7 + 9) + (10 - 6)),  # and the streaming row takes two more
        (1, 2, 2, 2, 0, 3 + 8),  # both have an answer
        (1, 2, 2, 1, 1, 3 + 7 + (7 - 5)),
    ],
)
def test_going_deeper(start, depth, batch, num_streaming, num_owed, expected):
    assert costs_of().deeper(start, depth, batch, num_streaming, num_owed) == ms(expected)


@pytest.mark.parametrize(
    ("num_streaming", "num_plain", "num_owed", "expected"),
    [(1, 1, 2, 5 + 5 - 6), (1, 1, 1, 5 + 5 - 5), (0, 2, 2, 0), (2, 0, 2, 0), (2, 0, 0, 6)],
)
def test_answering_apart(num_streaming, num_plain, num_owed, expected):
    assert costs_of().split_heads(1, num_streaming, num_plain, num_owed) == ms(expected)


def test_runs_in_a_row_are_not_all_unlucky():
    """Half of each is typical; of the other halves, the root of the squares."""
    costs = costs_of(table=Table(calm=0.5))
    assert costs.head(1, 1) == ms(5), "one run is as it is"
    assert costs.remaining_path(0, 1, 1)[0] == ms((3 + 5) / 2 + math.hypot(3, 5) / 2)
    assert costs.unit_path(1, 1)[0] == ms((4 + 3 + 5) / 2 + math.hypot(4, 3, 5) / 2)
    assert costs.stacks(0, 3, 1)[0] == ms((3 + 2 + 1) / 2 + math.hypot(3, 2, 1) / 2)
    assert costs.stacks(0, 3, 1)[1] == ms((3 + 2 + 1) / 2)
    assert costs.unit_path(1, 1)[1] == ms((4 + 3 + 5) / 2)


def test_typical_times_are_of_the_path_that_is_typically_quickest():
    costs = costs_of(table=Table(calm=0.5))
    assert costs.typical_path(1) == ms(11 / 2)
    assert costs.typical_path(1, streams=True) == ms(12 / 2)


@pytest.mark.parametrize(
    ("limit_s", "late"),
    [(0.020, 1 - TAIL_QUANTILE), (0.030, (1 - TAIL_QUANTILE) / math.e), (10.0, 0.0)],
)
def test_the_more_time_a_run_has_the_fewer_are_late(limit_s, late):
    assert late_share((0.020, 0.010), limit_s) == pytest.approx(late)
    assert late_share((0.020, 0.020), limit_s) == 0.0, "it always takes the same"


@pytest.mark.parametrize(
    ("seconds", "paying"),
    [
        ({1: 1.0, 2: 1.5, 4: 2.0, 8: 3.0}, (1, 2, 4, 8)),
        ({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, (1,)),  # in proportion
        ({1: 1.0, 2: 2.0, 4: 2.8, 8: 5.6}, (1, 4)),
        ({1: 1.0, 2: 1.9, 4: 4.0, 8: 4.0}, (1, 8)),  # exactly at the bound is not below it
        ({1: 1.0, 2: 1.5, 4: 2.0, 8: 3.9}, (1, 2, 4)),
    ],
)
def test_sizes_pay_that_take_clearly_less_time_per_request(seconds, paying):
    profile = exact_profile(lambda segment, batch: seconds[batch], tuple(seconds))
    costs = Costs(LatencyModel(profile), Paths(FUSED, 3))
    assert BATCHING_GAIN == 0.95, "what the table is for"
    assert costs.paying_sizes(1, tuple(seconds)) == paying


def test_a_question_is_asked_once():
    table = Table()
    costs = costs_of(table=table)
    asked = []
    for _ in range(3):
        for depth in (1, 2, 3):
            costs.path(depth, 1)
            costs.deeper(1, depth, 1, 1, 1)
            costs.paying_sizes(depth, (1, 2))
        asked.append(table.num_asked)
    assert asked == [asked[0]] * 3
    assert asked[0] <= 2 * 2 * len(LOOKUPS), "what is typical, and what is seldom exceeded"


class Forgetful(Latency):
    """A latency model of which nothing is kept."""

    def __init__(self, model: LatencyModel) -> None:
        self._model = model

    @property
    def slowdown(self) -> float:
        return self._model.slowdown

    def times(self, segment: Segment, batch: int) -> Times:
        return self._model.times(segment, batch)

    def calm(self, segment: Segment, batch: int) -> Times:
        return self._model.calm(segment, batch)


@given(st.lists(st.tuples(st.integers(0, 19), st.sampled_from([1, 2, 4]), st.floats(0.5, 3.0))))
@examples(100)
def test_what_is_kept_is_what_would_be_found_anew(runs):
    """Batches of 3 were not profiled: they are as those of 4, and of 8 follows from them."""
    latency = LatencyModel(exact_profile(sizes=(1, 2, 4), exits=(3, 3)))
    every = [segment.of(model) for model in (0, 1) for segment in (*UNITS, *FUSED)]
    models = paths_of(every)
    for number, batch, factor in runs:
        segment = every[number]
        latency.observe(segment, batch, factor * cost_s(segment, batch))
        for paths in models:
            kept, anew = Costs(latency, paths), Costs(Forgetful(latency), paths)
            for size in (1, 2, 3, 4, 8):
                for depth in (1, 2, 3):
                    assert kept.path(depth, size) == anew.path(depth, size)
                    assert kept.path(depth, size, streams=True) == anew.unit_path(depth, size)
                    assert kept.remaining_path(1, depth, size) == anew.remaining_path(
                        1, depth, size
                    )
                    assert kept.stacks(0, depth, size) == anew.stacks(0, depth, size)
            assert kept.paying_sizes(1, (1, 2, 4)) == anew.paying_sizes(1, (1, 2, 4))
            assert kept.slowest_s(streams=False) == anew.slowest_s(streams=False)


def test_times_are_those_of_the_own_model():
    profile = exact_profile(lambda s, b: cost_s(s, b) * (1 + s.model), sizes=(1,), exits=(3, 3))
    latency = LatencyModel(profile)
    small, large = (Costs(latency, paths) for paths in paths_of({s for s, _ in profile.table}))
    for depth in (1, 2, 3):
        assert large.path(depth, 1)[0] == pytest.approx(2 * small.path(depth, 1)[0])
        assert large.typical_path(depth) == pytest.approx(2 * small.typical_path(depth))
