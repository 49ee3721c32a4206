"""Detections of a batch, as a head gives them."""

from __future__ import annotations

import numpy as np
import pytest

from serving.runners.rows import copied_rows

BOXES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
SCORES = np.arange(6, dtype=np.float32).reshape(2, 3)
LABELS = np.arange(6, dtype=np.int32).reshape(2, 3)


def test_as_many_of_each_row_as_are_counted_are_copied() -> None:
    first, second = copied_rows(BOXES, SCORES, LABELS, np.array([3, 0], np.int32))
    assert first.scores.tolist() == [0, 1, 2]
    assert not np.shares_memory(first.boxes_xyxy_input, BOXES)
    assert (second.boxes_xyxy_input.shape, len(second.labels)) == ((0, 4), 0)


@pytest.mark.parametrize("count", [-1, 4, 2**31 - 1])
def test_a_count_of_what_is_not_there_is_refused(count: int) -> None:
    """A slice would make another number of it."""
    with pytest.raises(ValueError, match=rf"counts \[1, {count}\] boxes of 3"):
        copied_rows(BOXES, SCORES, LABELS, np.array([1, count], np.int32))
