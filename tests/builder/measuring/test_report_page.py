"""The page: all there, well-formed, and nothing fetched."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from builder.data import AveragePrecision, ScoredBoxes
from builder.measuring.report import ExitSummary, ModelSummary, ReportImage
from builder.measuring.report_page import lines, page
from serving.core.latency_profile import LatencyProfile
from tests.builder.measuring.test_latency import CATALOG

NAN = float("nan")
BOX = np.array([[10, 20, 50, 60]], np.float32)


def exit_facts(depth: int, ap: float, p50_ms: float | None = 1.5) -> ExitSummary:
    accuracy = AveragePrecision(ap, ap + 0.1, {"x": ap}, {"small": NAN, "medium": ap, "large": ap})
    return ExitSummary(depth, accuracy, depth * 2_000_000_000, p50_ms)


def found(score: float) -> ScoredBoxes:
    return ScoredBoxes(BOX + 1, np.array([score], np.float32), np.zeros(1, np.int64))


IMAGE = ReportImage("a & b", b"jpeg", (100, 200), BOX, {1: found(0.3), 2: found(0.875)})
FACTS = ModelSummary(
    "cells",
    CATALOG,
    "openvino",
    LatencyProfile("openvino", "a machine", "2026-01-01", 2, {}),
    (exit_facts(1, 0.5), exit_facts(2, 0.625)),
    {"x": 1234},
    {"small": 0, "medium": 1000, "large": 234},
    ("x",),
    (IMAGE,),
)


class Reader(HTMLParser):
    """Collects text and shapes, and checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.shapes: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shapes.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shapes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(*models: ModelSummary, score: float = 0.4) -> Reader:
    text = page(models, "bccd test", 72, score)
    assert not re.search(r"url\(|@import|https?://", text)
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    links = [shape["href"] for _, shape in reader.shapes if "href" in shape]
    assert all(link and link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    return reader


def test_what_the_page_says() -> None:
    words = read(FACTS).words
    for text in ("Exits of cells", "bccd test, 72 images; COCO AP, IoU .50 to .95", "0.625"):
        assert text in words
    assert "exit 2, from 0.500 at exit 1" in words
    assert "2.00 to 4.00" in words
    assert "+0.125" in words
    assert "1,234" in words
    assert any("openvino, a machine, threads: 2" in text for text in words)
    assert "a & b" in words
    assert "-" in words, "no small objects, so no AP of them"


def test_detections_are_drawn_exit_by_exit() -> None:
    reader = read(FACTS)
    boxes = [
        shape
        for tag, shape in reader.shapes
        if tag == "rect" and shape.get("pointer-events") == "all"
    ]
    assert [(box["x"], box["y"], "stroke-dasharray" in box) for box in boxes] == [
        ("10.0", "20.0", True),
        ("10.0", "20.0", True),
        ("11.0", "21.0", False),
    ]
    assert "exit 1: 0 detections, 1 objects" in reader.words
    assert "x 0.88" in reader.words
    everything = read(FACTS, score=0.0).words
    assert "exit 1: 1 detections, 1 objects" in everything


def test_the_image_is_there_once() -> None:
    shapes = read(FACTS).shapes
    assert [tag for tag, _ in shapes].count("image") == 1
    assert [shape["href"] for tag, shape in shapes if tag == "use"] == ["#cells-0"] * 2


def test_several_models_share_the_charts() -> None:
    other = replace(FACTS, name="other", exits=(exit_facts(1, 0.7),))
    reader = read(FACTS, other)
    assert "Exits of cells, other" in reader.words
    labels = [text for text in reader.words if text.startswith("other: 0.700 at")]
    assert labels == [
        "other: 0.700 at 1 exit",
        "other: 0.700 at 2 GMAC per image",
        "other: 0.700 at 1.5 ms",
    ]


def test_without_a_profile() -> None:
    exits = (exit_facts(1, 0.5, None), exit_facts(2, 0.6, None))
    words = read(replace(FACTS, profile=None, exits=exits)).words
    assert "Not measured on this runtime yet: punctual profile --write." in words


@pytest.mark.parametrize("points", [[], [(1.0, NAN)]])
def test_nothing_to_draw(points: list[tuple[float, float]]) -> None:
    assert "nothing to show" in lines("exit", "AP", [("a", points)])


def test_one_point_has_an_axis() -> None:
    assert "<circle" in lines("exit", "AP", [("a", [(0.0, 0.0)])])


def test_many_classes_are_a_table_only() -> None:
    names = [f"class {index}" for index in range(9)]
    sizes = FACTS.exits[0].accuracy.ap_by_size
    accuracy = AveragePrecision(0.5, 0.6, dict.fromkeys(names, 0.5), sizes)
    exits = (replace(FACTS.exits[0], accuracy=accuracy),)
    facts = replace(FACTS, exits=exits, num_of_class=dict.fromkeys(names, 1))
    words = read(facts).words
    assert words.count("class 8") == 1
