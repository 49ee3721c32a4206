"""Whom to run for when not everybody can be in time: tables of deadlines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.request import Request
from serving.core.scheduling.overload import choose_batch

MS = {1: 10, 2: 14, 4: 20, 8: 30}
"""Milliseconds by batch size."""
FLAT_MS = {1: 10, 4: 36}
"""Where batches gain little."""


def queue_of(deadlines_ms: Sequence[float]) -> tuple[Request, ...]:
    return tuple(
        Request(i, 0.0, deadline / 1e3, 1, 5) for i, deadline in enumerate(sorted(deadlines_ms))
    )


def chosen(
    deadlines_ms: Sequence[float],
    limit_ms: float = math.inf,
    sizes: tuple[int, ...] = (1, 2, 4, 8),
    *,
    overload_lasts: bool = True,
    table: dict[int, int] = MS,
) -> list[int]:
    """Their positions."""
    queue = queue_of(deadlines_ms)
    batch = choose_batch(
        queue,
        0.0,
        sizes,
        lambda size: table[size] / 1e3,
        limit_ms / 1e3,
        overload_lasts=overload_lasts,
    )
    return [request.id for request in batch]


@pytest.mark.parametrize(
    ("deadlines_ms", "expected"),
    [
        ([], []),
        ([10], [0]),
        ([5], [0]),  # late by the cautious estimate alone, or it would not be here
        ([10, 10], [0]),  # for two it takes 14
        ([14, 14], [0, 1]),
        ([14, 14, 14], [0, 1]),  # the largest that can be filled
        ([20] * 4, [0, 1, 2, 3]),
        ([20] * 7, [0, 1, 2, 3]),
        ([30] * 8, list(range(8))),
        ([30] * 9, list(range(8))),
        ([29.9] + [30] * 7, [0, 1, 2, 3]),  # not all eight are in time in a batch of eight
        # The head cannot wait for four, and four cannot wait for the head.
        ([12, 20, 20, 20, 20], [1, 2, 3, 4]),
        ([12, 29.9, 29.9, 29.9, 29.9], [1, 2, 3, 4]),
        # They can: it goes first.
        ([12, 30, 30, 30, 30], [0]),
        ([12, 34, 34, 34, 34], [0]),
        ([14, 14, 34, 34, 34, 34], [0, 1]),  # with whom it is in time
        ([14, 14, 33.9, 33.9, 33.9, 33.9], [2, 3, 4, 5]),
        # Late even alone, it goes alone, if there is time.
        ([9, 30, 30, 30, 30], [0]),
        ([9, 29.9, 29.9, 29.9, 29.9], [1, 2, 3, 4]),
        ([9, 11], [1]),  # the other one is in time
        ([9, 20], [0]),
        # Nobody is in time in two: the most urgent first.
        ([11, 12, 13], [0]),
    ],
)
def test_the_largest_batch_in_time_and_the_head_if_that_can_wait(deadlines_ms, expected):
    assert chosen(deadlines_ms) == expected


@pytest.mark.parametrize(
    ("deadlines_ms", "expected"),
    [
        ([], []),
        ([5], [0]),
        ([5, 5], [0]),
        ([12, 20, 20, 20, 20], [1, 2, 3, 4]),  # four in time, where the head and one would be
        ([9, 11], [1]),
        ([9, 20], [1]),  # where the other one alone is in time
    ],
)
def test_a_crowd_that_will_pass_goes_by_urgency_where_that_loses_nobody(deadlines_ms, expected):
    assert chosen(deadlines_ms, overload_lasts=False) == expected


@pytest.mark.parametrize(
    ("deadlines_ms", "lasting", "passing"),
    [
        ([12, 40, 40, 40, 50], [1, 2, 3, 4], [0]),  # five in time
        ([12, 40, 40, 40, 49.9], [1, 2, 3, 4], [1, 2, 3, 4]),  # four either way, and sooner
        ([12, 36, 36, 36, 36], [1, 2, 3, 4], [1, 2, 3, 4]),  # three
        ([12, 46, 46, 46, 46], [0], [0]),
        ([36, 36, 36, 36, 100], [0, 1, 2, 3], [0, 1, 2, 3]),
    ],
)
def test_where_batches_gain_little_a_passing_crowd_keeps_its_head(deadlines_ms, lasting, passing):
    for overload_lasts, expected in ((True, lasting), (False, passing)):
        assert (
            chosen(deadlines_ms, sizes=(1, 4), table=FLAT_MS, overload_lasts=overload_lasts)
            == expected
        )


@pytest.mark.parametrize(
    ("limit_ms", "expected"),
    [(9.9, []), (10, [0]), (14, [0, 1]), (19.9, [0, 1]), (20, [0, 1, 2, 3]), (1e3, [0, 1, 2, 3])],
)
def test_no_run_takes_longer_than_those_in_flight_can_wait(limit_ms, expected):
    assert chosen([100] * 6, limit_ms) == expected


def test_the_head_goes_with_no_more_than_those_in_flight_can_wait_for():
    assert chosen([20] * 4 + [60] * 8) == [0, 1, 2, 3]
    assert chosen([20] * 4 + [60] * 8, limit_ms=15) == [0, 1]


def test_sizes_that_do_not_pay_are_not_formed():
    assert chosen([100] * 6, sizes=(1, 2)) == [0, 1]
    assert chosen([100] * 6, sizes=(1,)) == [0]


@given(
    st.lists(st.floats(1.0, 80.0), min_size=1, max_size=20),
    st.sampled_from([math.inf, 5.0, 15.0, 25.0]),
    st.booleans(),
)
def test_a_batch_is_a_run_of_the_queue_that_is_in_time(deadlines_ms, limit_ms, overload_lasts):
    batch = chosen(deadlines_ms, limit_ms, overload_lasts=overload_lasts)
    deadlines_ms = sorted(deadlines_ms)
    if not batch:
        assert limit_ms < MS[1]
        return
    assert batch == list(range(batch[0], batch[0] + len(batch)))
    assert MS[len(batch)] <= limit_ms + 1e-5
    if batch != [0]:
        assert all(MS[len(batch)] <= deadlines_ms[i] + 1e-5 for i in batch)
    if batch[0] > 0:
        assert len(batch) > 1 or deadlines_ms[0] < MS[1] + 1e-5, "passed over for one alone"
