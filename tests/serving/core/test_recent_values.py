from __future__ import annotations

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
