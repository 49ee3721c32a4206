from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.core.pareto_front import OperatingPoint, pareto_front

NAMES = ("small", "large")


def points(*exits: tuple[int, int, float, float]) -> list[OperatingPoint]:
    """Model, depth, milliseconds, AP."""
    return [OperatingPoint(model, depth, ms / 1e3, ap) for model, depth, ms, ap in exits]


def test_an_exit_that_adds_nothing_is_dropped() -> None:
    given = points((0, 1, 8, 0.588), (0, 2, 10, 0.609), (0, 3, 12.6, 0.62), (0, 4, 15.2, 0.618))
    front = pareto_front(given)
    assert front.points == tuple(given[:3])
    (dropped,) = front.dropped
    assert (
        dropped.reason(["bccd"]) == "exit 4 of bccd: .618, not above the .620 of exit 3 (12.6 ms)"
    )


def test_models_share_one_front() -> None:
    given = points((0, 1, 4, 0.4), (0, 2, 6, 0.5), (1, 1, 7, 0.45), (1, 2, 9, 0.6))
    front = pareto_front(reversed(given))
    assert [(point.model, point.depth) for point in front.points] == [(0, 1), (0, 2), (1, 2)]
    (dropped,) = front.dropped
    assert (
        dropped.reason(NAMES)
        == "exit 1 of large: .450, not above the .500 of exit 2 of small (6.0 ms)"
    )


def test_of_equals_one_is_kept() -> None:
    front = pareto_front(points((1, 1, 5, 0.5), (0, 2, 5, 0.5), (0, 1, 5, 0.5)))
    assert [(point.model, point.depth) for point in front.points] == [(0, 1)]
    assert [(each.point.model, each.point.depth) for each in front.dropped] == [(0, 2), (1, 1)]


def test_table_of_all_exits() -> None:
    given = points((0, 2, 6, 0.5), (0, 1, 4, 0.4), (1, 1, 7, 0.45), (1, 2, 12.34, 1.0))
    assert pareto_front(given).table(NAMES) == [
        "model  exit    AP      ms",
        "small     1  .400     4.0",
        "small     2  .500     6.0",
        "large     1  .450     7.0  not above the .500 of exit 2 of small (6.0 ms)",
        "large     2  1.000    12.3",
    ]


POINTS = st.lists(
    st.builds(
        OperatingPoint,
        st.integers(0, 2),
        st.integers(1, 9),
        st.integers(1, 20).map(float),
        st.integers(0, 20).map(lambda percent: percent / 20),
    ),
    max_size=20,
)


@given(POINTS)
def test_what_a_front_is(given: list[OperatingPoint]) -> None:
    front = pareto_front(given)
    for quicker, slower in zip(front.points, front.points[1:], strict=False):
        assert quicker.latency_s < slower.latency_s
        assert quicker.ap < slower.ap
    for each in front.dropped:
        assert each.better in front.points
        assert each.better.latency_s <= each.point.latency_s
        assert each.better.ap >= each.point.ap
    everything = [*front.points, *(each.point for each in front.dropped)]
    key = lambda p: (p.model, p.depth, p.latency_s, p.ap)  # noqa: E731
    assert sorted(everything, key=key) == sorted(given, key=key)
