"""Statistics against values worked out by hand or known from tables."""

from __future__ import annotations

import numpy as np
import pytest

from builder.search.statistics import (
    agreement,
    bootstrap,
    consistency,
    kendall,
    rank_agreement,
    rank_sum,
    running_best,
)


@pytest.mark.parametrize(
    ("one", "other", "tau"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 4 / 6),  # five pairs agree, one does not
        ([1, 1, 2, 3], [1, 2, 3, 4], 5 / np.sqrt(5 * 6)),  # a tie
        ([1, 1, 1], [1, 2, 3], 0.0),
    ],
)
def test_kendall(one: list[float], other: list[float], tau: float) -> None:
    assert kendall(one, other) == pytest.approx(tau)


def test_rank_sum() -> None:
    share, p = rank_sum([4, 5, 6], [1, 2, 3])
    assert share == 1.0
    # U = 9, mean 4.5, deviation sqrt(9 * 7 / 12), continuity 0.5
    assert p == pytest.approx(0.0809, abs=1e-3)
    assert rank_sum([1, 1], [1, 1]) == (0.5, 1.0)


def test_rank_sum_is_as_often_significant_as_it_says() -> None:
    random = np.random.default_rng(0)
    found = [rank_sum(random.normal(size=40), random.normal(size=40))[1] for _ in range(1000)]
    assert 0.03 < np.mean(np.array(found) < 0.05) < 0.07


def test_bootstrap_covers_the_mean() -> None:
    random = np.random.default_rng(0)
    intervals = [bootstrap(random.normal(size=40), resamples=500) for _ in range(300)]
    covered = np.mean([each.low < 0 < each.high for each in intervals])
    assert 0.89 < covered < 0.98
    assert all(each.low < each.middle < each.high for each in intervals)


def test_intraclass_correlation() -> None:
    # Mean squares: 16 between the groups, 2 within; (16 - 2) / (16 + 2).
    assert agreement([[1, 3], [5, 7]]).middle == pytest.approx(7 / 9)
    assert agreement([[1, 1], [2, 2], [3, 3]]).middle == 1.0
    assert agreement([[1, 1], [1, 1]]).middle == 0.0


def test_what_the_nth_values_have_in_common_counts_for_nothing() -> None:
    random = np.random.default_rng(0)
    graphs, seeds = random.normal(size=(100, 1)), random.normal(scale=3, size=3)
    table = graphs + random.normal(size=(100, 3))
    found = consistency(table + seeds)
    assert found.middle == pytest.approx(consistency(table).middle)
    assert found.low < 0.5 < found.high
    assert agreement(table + seeds).high < 0.5
    assert consistency([[1, 2], [2, 3], [5, 6]]).middle == 1.0


def test_an_intraclass_correlation_has_an_interval_that_covers_it() -> None:
    random = np.random.default_rng(0)
    found = [
        agreement(random.normal(size=(30, 1)) + random.normal(size=(30, 3))) for _ in range(40)
    ]
    assert np.mean([each.low < 0.5 < each.high for each in found]) > 0.8


def test_running_best() -> None:
    assert running_best([1.0, 3.0, 2.0, 3.0, 4.0]) == [0, 1, 1, 1, 4]


def test_an_agreement_of_ranks_has_an_interval_that_covers_it() -> None:
    random = np.random.default_rng(0)
    # Kendall's tau of a normal pair with correlation r is 2 / pi * asin(r).
    tau = 2 / np.pi * np.arcsin(0.6)
    found = []
    for _ in range(40):
        one = random.normal(size=30)
        other = 0.6 * one + 0.8 * random.normal(size=30)
        found.append(rank_agreement(one, other, resamples=100))
    assert np.mean([each.low < tau < each.high for each in found]) > 0.8
    assert found[0].low < found[0].middle < found[0].high
