from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serving.core.catalog import Exit, SegmentFile
from serving.core.replacement import find_obstacle
from tests.serving.fakes import CATALOG, FAMILY, family_of


def test_other_weights_and_figures_are_no_obstacle() -> None:
    other = replace(
        CATALOG,
        version="2",
        segments={"stem": SegmentFile("stem.onnx", "0" * 64)},
        exits=tuple(Exit(depth, 0.1, 0.2, {}) for depth in (1, 2, 3)),
        max_detections=50,
    )
    assert find_obstacle(FAMILY, family_of(other)) is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"name": "others"}, "name is another: cells; others"),
        ({"classes": ("circle", "line")}, "classes are another: circle, square; circle, line"),
        ({"resize": "stretch"}, "way to make an input of an image is another"),
        ({"input_width": 64}, "input sizes are another: 128x96; 64x96"),
        ({"exits": CATALOG.exits[:2]}, "numbers of exits are another: 3; 2"),
        ({"score_threshold": 0.2}, "smallest score is another: 0.05; 0.2"),
    ],
)
def test_what_requests_have_gone_by_is_named(change: dict[str, Any], what: str) -> None:
    obstacle = find_obstacle(FAMILY, family_of(replace(CATALOG, **change)))
    assert obstacle is not None
    assert what in obstacle
