"""Parts of a page: all there, closed, escaped."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from reporting.html import SERIES, document, legend, section, table, tiles


@pytest.mark.parametrize(
    ("part", "texts"),
    [
        (section("A & B", "<p>x</p>"), ["A & B", "x"]),
        (tiles([("AP", "<.5>", "of & all")]), ["AP", "<.5>", "of & all"]),
        (legend([("a < b", SERIES[0])]), ["a < b"]),
        (table(("a", "b<"), [("1", "2&"), ("3", "4")]), ["a", "b<", "1", "2&", "3", "4"]),
    ],
)
def test_parts(part: str, texts: list[str]) -> None:
    assert list(ElementTree.fromstring(part).itertext()) == texts


def test_the_colours_of_a_series_are_those_of_the_style() -> None:
    page = document("T", "")
    assert all(f"--{colour}: #" in page for colour in SERIES)


def test_a_document() -> None:
    page = document("A < B", "<p>x</p>", ".own { color: red }")
    assert page.startswith("<!doctype html>")
    assert "<title>A &lt; B</title>" in page
    assert ".own { color: red }</style>" in page
    assert "<h1>A &lt; B</h1><p>x</p></main></body></html>" in page
