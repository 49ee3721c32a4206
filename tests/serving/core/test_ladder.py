"""Ladders: names of operating points, and what answers are worth."""

from __future__ import annotations

import pytest

from serving.core.ladder import Ladder
from tests.serving.core.test_family import FAMILY, LARGE
from tests.serving.fakes import family_of

LADDER = Ladder(
    ("200x100", "300x150", "400x200"),
    ((0.3, 0.4), (0.5,), (0.45, 0.55)),
    {(0, 2): {(1, 1): 0.6, (2, 1): 0.2}, (1, 1): {(2, 2): 0.7}},
)


def test_points_are_by_size_then_depth_and_found_by_name() -> None:
    labels = [LADDER.label(point) for point in LADDER.points]
    assert labels == ["200x100/1", "200x100/2", "300x150/1", "400x200/1", "400x200/2"]
    assert [LADDER.find(label) for label in labels] == list(LADDER.points)
    assert LADDER.num_exits == 2
    assert [LADDER.ap(point) for point in LADDER.points] == [0.3, 0.4, 0.5, 0.45, 0.55]
    for label in ("300x150/2", "300x150", "1", ""):
        with pytest.raises(ValueError, match="there are 200x100/1, 200x100/2, 300x150/1"):
            LADDER.find(label)


def test_height_is_the_place_among_what_is_allowed() -> None:
    assert [LADDER.height(point, 2) for point in LADDER.points] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert [LADDER.height((number, 1), 1) for number in range(3)] == [1 / 3, 2 / 3, 1.0]


def test_what_was_not_merged_is_worth_the_better_one() -> None:
    assert LADDER.merged_ap((0, 2), (1, 1)) == 0.6
    assert LADDER.merged_ap((0, 2), (2, 1)) == 0.2  # as measured, though either alone is better
    assert LADDER.merged_ap((1, 1), (0, 1)) == 0.5
    assert LADDER.merged_ap((0, 1), (2, 1)) == 0.45


def test_an_answer_is_worth_its_best_pair() -> None:
    assert LADDER.answer_ap(()) == 0.0
    assert LADDER.answer_ap([(0, 2)]) == 0.4
    assert LADDER.answer_ap([(0, 2), (1, 1)]) == 0.6
    assert LADDER.answer_ap([(0, 2), (2, 1)]) == 0.45
    assert LADDER.answer_ap([(0, 2), (1, 1), (2, 2)]) == 0.7
    assert LADDER.answer_ap([(0, 2), (1, 1), (2, 1)]) == 0.6
    assert LADDER.answer_label([(0, 2), (1, 1)]) == "200x100/2+300x150/1"


def test_pairs_that_gain_are_those_better_than_either() -> None:
    assert sorted(LADDER.gains()) == [((0, 2), (1, 1), 0.6), ((1, 1), (2, 2), 0.7)]


@pytest.mark.parametrize(
    ("sizes", "accuracies", "merged", "complaint"),
    [
        ((), (), {}, "needs exits"),
        (("8x8",), ((0.1,), (0.2,)), {}, "needs exits"),
        (("8x8", "9x9"), ((0.1,), ()), {}, "needs exits"),
        (("8x8", "8x8"), ((0.1,), (0.2,)), {}, "two input sizes are called 8x8"),
        (("8x8", "9x9"), ((0.1,), (0.2,)), {(0, 1): {(1, 2): 0.3}}, "can be merged"),
        (("8x8",), ((0.1, 0.2),), {(0, 1): {(0, 2): 0.3}}, "two different input sizes"),
    ],
)
def test_what_is_no_ladder(sizes, accuracies, merged, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Ladder(sizes, accuracies, merged)


def test_the_ladder_of_what_is_served() -> None:
    ladder = FAMILY.ladder
    assert ladder.sizes == ("small@64x96", "large@128x96")
    assert ladder.accuracies == FAMILY.accuracies
    assert family_of(LARGE).ladder.sizes == ("128x96",)
    assert Ladder.of_exits([0.1, 0.2]).points == ((0, 1), (0, 2))
