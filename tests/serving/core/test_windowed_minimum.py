"""The least of the last one to two periods."""

from serving.core.windowed_minimum import WindowedMinimum


def test_each_value_has_its_own_least():
    least = WindowedMinimum(10.0, 0.0, (5.0, 1.0))
    least.add(1.0, (3.0, 2.0))
    least.add(2.0, (4.0, 4.0))
    assert least.values == (3.0, 1.0)


def test_what_was_less_is_forgotten_after_two_periods_at_most():
    least = WindowedMinimum(10.0, 0.0, (1.0,))
    for now_s in range(1, 20):
        least.add(float(now_s), (2.0,))
        assert least.values == (1.0,), now_s
    least.add(20.0, (2.0,))
    assert least.values == (2.0,)


def test_after_a_long_silence_only_what_is_new_counts():
    least = WindowedMinimum(10.0, 0.0, (1.0,))
    least.add(100.0, (7.0,))
    assert least.values == (7.0,)
