"""Anchors against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from builder.config.named import CONFIGS
from builder.modeling.anchors import anchors_per_level, level_anchors, make_anchors


def test_table_of_one_level() -> None:
    anchors = level_anchors((1, 2), 8, 2.0, (1.0, 2.0), (1.0, 4.0), 0.5)
    expected = [
        # cell (0, 0), centre (4, 4): sides 16, then 32; square, then four times as wide as high
        [-4, -4, 12, 12],
        [-12, 0, 20, 8],
        [-12, -12, 20, 20],
        [-28, -4, 36, 12],
        # cell (0, 1), centre (12, 4)
        [4, -4, 20, 12],
        [-4, 0, 28, 8],
        [-4, -12, 28, 20],
        [-20, -4, 44, 12],
    ]
    np.testing.assert_allclose(anchors, expected)
    assert anchors.dtype == np.float32


def test_rows_go_over_y_then_x() -> None:
    anchors = level_anchors((2, 3), 16, 1.0, (1.0,), (1.0,), 0.5)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    expected = [[8, 8], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24]]
    np.testing.assert_allclose(centres, expected)


def test_the_offset_moves_centres_by_strides() -> None:
    half, none = (level_anchors((2, 3), 16, 1.0, (1.0,), (1.0,), offset) for offset in (0.5, 0.0))
    np.testing.assert_allclose(half - none, 8)


def test_levels_follow_each_other() -> None:
    config = replace(CONFIGS["bccd"].detector, input_size=(128, 256))
    anchors, counts = make_anchors(config), anchors_per_level(config)
    assert anchors.shape == (sum(counts), 4)
    first_of_level = np.cumsum([0, *counts[:-1]])
    sides = anchors[first_of_level, 2] - anchors[first_of_level, 0]
    np.testing.assert_allclose(sides, config.anchor_scale * np.array([8, 16, 32, 64, 128]))


def test_levels_and_offset_are_those_of_the_configuration() -> None:
    config = replace(CONFIGS["bccd"].detector, neck="nas_fpn_p6", anchor_offset=0.0)
    anchors = make_anchors(config)
    assert len(anchors_per_level(config)) == 4
    assert len(anchors) == sum(anchors_per_level(config))
    np.testing.assert_allclose(anchors[0, :2] + anchors[0, 2:], 0)
