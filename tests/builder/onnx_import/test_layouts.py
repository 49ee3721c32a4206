"""Every layout of the table: recognised, and read to the boxes that are known to be in it."""

from __future__ import annotations

import numpy as np
import pytest

from builder.cli import onnx_import as command
from builder.onnx_import import layouts as table
from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.layouts import LAYOUTS, Preprocessing
from tests.builder.onnx_import.detectors import NAMES, SIDE, THINGS, known_detector

BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)


def assert_things(rows, layout):
    kept = [thing for thing in THINGS if layout.suppressed or thing is not THINGS[2]]
    assert [label for label, _, _ in rows] == [thing.label for thing in kept]
    for (_, score, box), thing in zip(rows, kept, strict=True):
        assert score == pytest.approx(thing.score, abs=1e-4)
        assert box == pytest.approx(thing.box, abs=1e-2)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_is_recognised_and_read(layout, imported, find, capsys):
    entry = imported(known_detector(layout))
    assert f": {layout.name}: the outputs " in capsys.readouterr().out
    (catalog,) = entry.catalogs
    assert catalog.classes == NAMES
    assert catalog.resize == layout.preprocessing.resize
    assert catalog.max_batch == (1 if layout.for_one_image else None)
    (images,) = find(entry, [BLACK, BLACK], catalog.max_batch)
    for rows in images:
        assert_things(rows, layout)


@pytest.mark.parametrize("units", table.UNITS)
@pytest.mark.parametrize("order", table.BOX_ORDERS)
def test_boxes_may_be_in_any_convention(order, units, imported, find):
    changes = {"boxes": order, "units": units}
    layout = LAYOUTS["boxes-scores"].changed(changes)
    entry = imported(known_detector(layout), changes=changes)
    ((rows,),) = find(entry, [BLACK])
    assert_things(rows, layout)


def test_shares_are_recognised(imported, find, capsys):
    layout = LAYOUTS["end-to-end"].changed({"units": "shares"})
    entry = imported(known_detector(layout))
    assert "are shares of the image" in capsys.readouterr().out
    ((rows,),) = find(entry, [BLACK])
    assert_things(rows, layout)


def test_scores_may_be_logits(imported, find):
    layout = LAYOUTS["yolov8"].changed({"activation": "sigmoid"})
    entry = imported(known_detector(layout), layout="yolov8", changes={"activation": "sigmoid"})
    ((rows,),) = find(entry, [BLACK])
    assert_things(rows, layout)


def test_what_fits_several_is_refused_with_the_reason(imported):
    logits = {"activation": "sigmoid"}
    layout = LAYOUTS["boxes-scores"].changed(logits)
    with pytest.raises(ForeignModelError, match="may be those of boxes-scores or detr: say which"):
        imported(known_detector(layout), changes=logits)


def test_another_layout_than_that_named_is_refused_with_shapes(imported):
    with pytest.raises(ForeignModelError, match=r"boxes\+scores \[1, 7, 84\].*\[B, N, 5\+C\]"):
        imported(known_detector(LAYOUTS["yolov8"]), layout="yolov5")


def test_options_name_what_the_table_has():
    assert tuple(LAYOUTS) == command.LAYOUTS
    assert command.CHANGES == {
        "boxes": table.BOX_ORDERS,
        "units": table.UNITS,
        "activation": table.ACTIVATIONS,
    }
    assert tuple(Preprocessing.__dataclass_fields__) == command.PIXELS
