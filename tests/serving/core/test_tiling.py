from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.tiling import ImageDetections, Region, grid, merge_tiles

MANY = 100


def found(*boxes: tuple[float, float, float, float], scores=None, labels=None) -> ImageDetections:
    count = len(boxes)
    return ImageDetections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores or [0.9 - 0.1 * i for i in range(count)], np.float32),
        np.array(labels or [0] * count, np.int32),
    )


def merged(parts, width=200, height=100, most=MANY) -> list[list[float]]:
    return [[*map(float, box)] for box in merge_tiles(parts, width, height, most).boxes_xyxy]


LEFT, RIGHT = grid(200, 100, 1, 2, 0.2)
"""0..111 and 89..200."""


class TestGrid:
    @given(
        st.integers(64, 4000),
        st.integers(64, 4000),
        st.integers(1, 6),
        st.integers(1, 6),
        st.floats(0.0, 0.5),
    )
    def test_covers_all_of_the_picture(self, width, height, rows, columns, overlap) -> None:
        tiles = grid(width, height, rows, columns, overlap)
        assert len(tiles) == rows * columns
        assert tiles[0][:2] == (0, 0)
        assert tiles[-1][2:] == (width, height)
        for place, tile in enumerate(tiles):
            if place % columns:
                assert tile.x1 <= tiles[place - 1].x2
            if place >= columns:
                assert tile.y1 <= tiles[place - columns].y2
        assert max(t.width for t in tiles) - min(t.width for t in tiles) <= 2
        assert max(t.height for t in tiles) - min(t.height for t in tiles) <= 2

    def test_neighbours_share_a_part_of_their_side(self) -> None:
        left, right = grid(180, 90, 1, 2, 0.2)
        assert (left, right) == (Region(0, 0, 100, 90), Region(80, 0, 180, 90))
        assert grid(180, 90, 1, 2, 0.0) == [Region(0, 0, 90, 90), Region(90, 0, 180, 90)]


class TestMerge:
    def test_whole_in_two_tiles_is_found_once(self) -> None:
        parts = [
            (LEFT, found((92, 10, 108, 30), scores=[0.7])),
            (RIGHT, found((93, 10, 108, 31), scores=[0.8])),
        ]
        assert merged(parts) == [[93, 10, 108, 31]]

    def test_classes_apart(self) -> None:
        parts = [
            (LEFT, found((92, 10, 108, 30), labels=[1])),
            (RIGHT, found((92, 10, 108, 30), labels=[2])),
        ]
        assert len(merged(parts)) == 2

    def test_a_fragment_of_what_a_neighbour_has_whole(self) -> None:
        whole = (60, 20, 105, 40)
        parts = [
            (LEFT, found(whole, scores=[0.5])),
            (RIGHT, found((89, 20, 105, 40), scores=[0.9])),
        ]
        assert merged(parts) == [[*whole]]

    def test_halves_over_a_seam_are_one(self) -> None:
        parts = [
            (LEFT, found((40, 20, 111, 60), scores=[0.6])),
            (RIGHT, found((89, 22, 170, 61), scores=[0.8])),
        ]
        answer = merge_tiles(parts, 200, 100, MANY)
        assert [*answer.boxes_xyxy[0]] == [40, 20, 170, 61]
        assert [*map(float, answer.scores.round(2))] == [pytest.approx(0.8)]

    def test_halves_without_overlap(self) -> None:
        left, right = grid(200, 100, 1, 2, 0.0)
        parts = [(left, found((40, 20, 100, 60))), (right, found((100, 20, 160, 60)))]
        assert merged(parts) == [[40, 20, 160, 60]]

    def test_two_objects_that_a_seam_cuts_at_other_heights(self) -> None:
        parts = [(LEFT, found((40, 10, 111, 40))), (RIGHT, found((89, 50, 170, 90)))]
        assert len(merged(parts)) == 2

    def test_quarters_of_one_that_all_four_tiles_see(self) -> None:
        tiles = grid(200, 200, 2, 2, 0.2)
        large = (30, 40, 160, 170)
        parts = [
            (
                tile,
                found(
                    (
                        max(large[0], tile.x1),
                        max(large[1], tile.y1),
                        min(large[2], tile.x2),
                        min(large[3], tile.y2),
                    )
                ),
            )
            for tile in tiles
        ]
        assert merged(parts, 200, 200) == [[*large]]

    def test_the_edge_of_the_picture_cuts_nothing(self) -> None:
        parts = [(LEFT, found((0, 0, 30, 100))), (RIGHT, found((170, 0, 200, 100)))]
        assert len(merged(parts)) == 2

    def test_the_whole_picture_beside_its_tiles(self) -> None:
        large = (20, 10, 180, 90)
        parts = [
            (LEFT, found((20, 10, 111, 90))),
            (RIGHT, found((89, 10, 180, 90))),
            (Region(0, 0, 200, 100), found(large, scores=[0.3])),
        ]
        assert merged(parts) == [[*large]]

    def test_best_first_and_not_too_many(self) -> None:
        boxes = [(10 * i, 10, 10 * i + 8, 20) for i in range(8)]
        parts = [(LEFT, found(*boxes)), (RIGHT, found())]
        answer = merge_tiles(parts, 200, 100, 3)
        assert [*answer.scores] == sorted(answer.scores, reverse=True)
        assert len(answer.scores) == 3

    def test_nothing_at_all(self) -> None:
        assert merged([(LEFT, found()), (RIGHT, found())]) == []
