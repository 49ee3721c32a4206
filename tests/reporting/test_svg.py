"""Charts: where things are drawn, and that they are well-formed."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from reporting.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.5, 7.5, [1, 2, 3, 4, 5, 6, 7]),
        (0, 0, [0]),
        (0, 60, [0, 10, 20, 30, 40, 50, 60]),
    ],
)
def test_ticks_are_round_and_within(low, high, expected):
    assert ticks(low, high)[: len(expected)] == pytest.approx(expected)


def chart() -> Chart:
    return Chart("A < B", "x & y", "share", (0.0, 10.0), (0.0, 1.0), percent=True)


def test_data_is_mapped_to_the_box_within_the_margins():
    drawn = chart()
    assert (drawn.x(0), drawn.x(10)) == (LEFT, WIDTH - RIGHT)
    assert (drawn.y(0), drawn.y(1)) == (HEIGHT - BOTTOM, TOP)


def test_what_was_drawn_is_there_and_escaped():
    drawn = chart()
    drawn.line([(0, 0), (10, 1)], "depth", "a < b")
    drawn.band([(0, 0, 0.5), (10, 0.5, 1)], "depth", "from & to")
    drawn.bar((2, 4), 0.0, 0.5, "late", "3 late & more", 0.25)
    drawn.mark(5, "late")
    drawn.dots([(10, 0, "last & least")], "depth")
    root = ElementTree.fromstring(drawn.render())
    line = root.find("polyline")
    assert line is not None
    assert line.get("points") == f"{LEFT},{HEIGHT - BOTTOM} {WIDTH - RIGHT},{TOP}"
    band = root.find("polygon")
    assert band is not None
    corners = [tuple(map(float, point.split(","))) for point in band.get("points", "").split()]
    assert corners == [(drawn.x(x), drawn.y(y)) for x, y in ((0, 0), (10, 0.5), (10, 1), (0, 0.5))]
    bar = root.find("rect")
    assert bar is not None
    assert float(bar.get("height", 0)) == pytest.approx(drawn.y(0) - drawn.y(0.5), abs=0.01)
    assert bar.get("fill-opacity") == "0.25"
    assert [title.text for title in root.iter("title")] == [
        "a < b",
        "from & to",
        "3 late & more",
        "last & least",
    ]
    dot = root.find("circle")
    assert dot is not None
    assert (dot.get("cx"), dot.get("cy")) == (str(WIDTH - RIGHT), str(HEIGHT - BOTTOM))
    texts = [text.text for text in root.iter("text")]
    assert {"100%", "x & y", "share", "10"} <= set(texts)


def test_a_chart_of_one_value_has_a_place_for_it() -> None:
    for value in (0.0, -3.0, 1e9):
        chart = Chart("one", "x", "y", (value, value), (value, value))
        chart.dots([(value, value, "it")], "s0")
        assert f'cx="{(LEFT + WIDTH - RIGHT) / 2:.1f}"' in chart.render()
