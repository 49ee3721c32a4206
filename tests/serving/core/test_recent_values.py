from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.core.quantiles import quantile
from serving.core.recent_values import RecentValues


def test_old_values_are_forgotten_and_seeds_are_not():
    values = RecentValues(period_s=10.0, max_count=3, seeds=[1.0])
    assert values.quantile(0.0, 0.9) == 1.0
    values.add(1.0, 5.0)
    values.add(2.0, 3.0)
    assert [values.quantile(2.0, q) for q in (0.3, 0.6, 0.9)] == [1.0, 3.0, 5.0]
    assert [values.quantile(11.5, q) for q in (0.3, 0.6, 0.9)] == [1.0, 3.0, 3.0]
    assert values.quantile(12.5, 0.9) == 1.0


def test_there_are_only_so_many():
    values = RecentValues(period_s=10.0, max_count=2, seeds=[0.0])
    for value in (9.0, 1.0, 2.0):
        values.add(0.0, value)
    assert values.quantile(0.0, 1.0) == 2.0


@given(st.lists(st.tuples(st.integers(0, 7), st.none() | st.integers(0, 9))))
def test_what_was_asked_before_makes_no_difference(steps):
    """Of each step, some time passes and a value is added, or two quantiles are asked for."""
    period_s, seeds, now_s = 10.0, [4.0], 0.0
    values = RecentValues(period_s, max_count=100, seeds=seeds)
    added: list[tuple[float, float]] = []
    for passed_s, value in steps:
        now_s += passed_s
        if value is None:
            recent = [each for added_s, each in added if added_s >= now_s - period_s]
            for q in (0.5, 0.9):
                assert values.quantile(now_s, q) == quantile([*seeds, *recent], q)
        else:
            values.add(now_s, float(value))
            added.append((now_s, float(value)))
