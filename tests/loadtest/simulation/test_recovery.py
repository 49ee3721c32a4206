"""Recovery from a burst, on timelines written out."""

import pytest

from loadtest.simulation.recovery import Stretch, recovery
from loadtest.simulation.study import Timeline

# 20 bins of a second: 4 before the burst, 4 in it, 12 after.
ARRIVED = (100,) * 4 + (500,) * 4 + (100,) * 12


def test_what_it_was_and_when_it_is_so_again() -> None:
    in_time = (90,) * 4 + (200,) * 4 + (45,) * 2 + (90,) * 10
    depth = (4,) * 4 + (1,) * 4 + (2,) * 5 + (4,) * 7
    depths = tuple(d * n for d, n in zip(depth, in_time, strict=True))
    result = recovery(Timeline(ARRIVED, in_time, depths), (4.0, 8.0), 20.0, 2)
    assert result is not None
    assert result.before == Stretch(0.9, 4.0, 45.0)  # of two runs, 90 answers in a second
    assert result.during == Stretch(0.4, 1.0, 100.0)
    # Bins 10 .. 13 are the first four with the earlier attainment, 13 .. 16 with the depth.
    assert result.attainment_back_s == pytest.approx(6.0)
    assert result.depth_back_s == pytest.approx(9.0)


def test_a_server_settles_before_it_counts() -> None:
    in_time = (10, 20) + (90,) * 2 + (200,) * 4 + (90,) * 12
    depths = (70, 140, *in_time[2:])
    result = recovery(Timeline(ARRIVED, in_time, depths), (4.0, 8.0), 20.0, 1)
    assert result is not None
    assert result.before == Stretch(0.9, 1.0, 90.0)
    assert result.depth_back_s == pytest.approx(4.0)


def test_what_never_returns() -> None:
    in_time = (90,) * 4 + (200,) * 4 + (45,) * 12
    result = recovery(Timeline(ARRIVED, in_time, in_time), (4.0, 8.0), 20.0, 1)
    assert result is not None
    assert result.attainment_back_s is None
    assert result.depth_back_s == pytest.approx(4.0)


def test_a_burst_that_cuts_bins() -> None:
    in_time = (90,) * 4 + (200,) * 4 + (90,) * 12
    result = recovery(Timeline(ARRIVED, in_time, in_time), (3.5, 7.5), 20.0, 1)
    assert result is not None
    assert result.before == Stretch(0.9, 1.0, 90.0)
    assert result.during == Stretch(0.4, 1.0, 200.0)  # bins 4 .. 6
    assert result.attainment_back_s == pytest.approx(4.5)


@pytest.mark.parametrize("burst_s", [(0.0, 4.0), (1.0, 4.0), (4.0, 17.5), (4.0, 4.5), (30.0, 40.0)])
def test_a_burst_without_before_or_after(burst_s: tuple[float, float]) -> None:
    assert recovery(Timeline(ARRIVED, ARRIVED, ARRIVED), burst_s, 20.0, 1) is None
