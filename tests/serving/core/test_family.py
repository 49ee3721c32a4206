from __future__ import annotations

from dataclasses import replace

import pytest

from serving.core import segment as segments
from serving.core.catalog import Catalog, Exit
from serving.core.family import Family
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.model_entry import MergedAccuracy, Merging, ModelEntry, SizedExit
from tests.serving.fakes import CATALOG, family_of


def member(name: str, *accuracy: float, width: int = 128, **facts: object) -> Catalog:
    exits = tuple(Exit(depth, ap, ap, {}) for depth, ap in enumerate(accuracy, start=1))
    return replace(CATALOG, name=name, exits=exits, input_width=width, **facts)  # type: ignore[arg-type]


SMALL = member("small", 0.4, 0.5, width=64, score_threshold=0.1)
LARGE = member("large", 0.45, 0.6, 0.59, version="2")
FAMILY = family_of(SMALL, LARGE)


def test_one_model_is_what_its_catalogue_says() -> None:
    alone = family_of(LARGE)
    assert (alone.name, alone.version, alone.classes) == ("large", "2", LARGE.classes)
    assert (alone.num_exits, alone.score_threshold) == (3, 0.05)
    assert alone.accuracies == ((0.45, 0.6, 0.59),)


def test_several_are_served_under_all_their_names() -> None:
    assert (FAMILY.name, FAMILY.version) == ("small+large", "1+2")
    assert family_of(SMALL, member("tiny", 0.1)).version == "1"
    assert (FAMILY.num_exits, FAMILY.score_threshold) == (3, 0.1)
    assert (FAMILY.input_width, FAMILY.input_height) == (128, 96)


def test_sizes_of_an_entry_are_models() -> None:
    """Numbered in order, and called by their sizes; with several entries by both."""
    sizes = (replace(SMALL, name="cells"), replace(SMALL, name="cells", input_width=96))
    merged = MergedAccuracy(SizedExit("64x96", 1), SizedExit("96x96", 2), 0.7, 0.9)
    cells = ModelEntry(sizes, merging=Merging(32.0, 0.5), merged=(merged,))
    alone = Family((cells,))
    assert (alone.name, alone.version) == ("cells", "1")
    assert alone.names == ("cells", "cells")
    assert [alone.label(model, 2) for model in (0, 1)] == ["64x96/2", "96x96/2"]
    assert alone.merged_ap((0, 1), (1, 2)) == 0.7
    assert alone.merged_ap((0, 2), (1, 1)) == 0.5, "not measured: the better one"
    both = Family((ModelEntry((LARGE,)), cells))
    assert both.name == "large+cells"
    assert both.ladder.sizes == ("large@128x96", "cells@64x96", "cells@96x96")
    assert both.label(1, 2) == "cells@64x96/2"
    assert both.merged_ap((1, 1), (2, 2)) == 0.7
    assert both.merged_ap((0, 1), (1, 2)) == both.expected_ap(1, 2)


def test_inputs_that_images_lie_in_alike() -> None:
    half = replace(LARGE, name="half", input_width=64, input_height=48)
    assert family_of(half, LARGE).scaled_inputs == (half.input, LARGE.input)
    assert FAMILY.scaled_inputs == (LARGE.input,), "64 x 96 has another shape than 128 x 96"
    stretched = (replace(SMALL, resize="stretch"), replace(LARGE, resize="stretch"))
    assert family_of(*stretched).scaled_inputs == tuple(each.input for each in stretched)


def test_classes_must_be_the_same() -> None:
    other = member("other", 0.4, classes=("square", "circle"))
    with pytest.raises(ValueError, match="large and other cannot be served as one"):
        family_of(LARGE, other)
    stretched = member("other", 0.4, resize="stretch")
    with pytest.raises(ValueError, match="in different ways: by letterbox; by stretch"):
        family_of(LARGE, stretched)
    with pytest.raises(ValueError, match="called large"):
        family_of(LARGE, SMALL, LARGE)


@pytest.mark.parametrize(
    ("model", "depth", "bounds", "degraded"),
    [
        (1, 2, (1, 3), False),  # exit 3 of large is no better
        (1, 3, (1, 3), True),  # but exit 2 would have been better
        (0, 2, (1, 3), True),  # exit 2 of large
        (0, 2, (1, 1), False),
        (1, 1, (1, 1), False),
        (0, 1, (1, 1), True),  # exit 1 of large
        (1, 3, (3, 3), False),  # nothing else is as deep
    ],
)
def test_degraded_if_a_better_exit_was_allowed(
    model: int, depth: int, bounds: tuple[int, int], degraded: bool
) -> None:
    assert FAMILY.degraded([(model, depth)], *bounds) is degraded


def test_degraded_if_a_better_merged_answer_was_allowed() -> None:
    sizes = (replace(SMALL, name="cells"), replace(SMALL, name="cells", input_width=96))
    merged = MergedAccuracy(SizedExit("64x96", 1), SizedExit("96x96", 2), 0.7, 0.9)
    cells = Family((ModelEntry(sizes, merging=Merging(32.0, 0.5), merged=(merged,)),))
    assert cells.degraded([(0, 1)], 1, 2)
    assert cells.degraded([(1, 2)], 1, 2), "the best one alone"
    assert not cells.degraded([(0, 1), (1, 2)], 1, 2)
    assert not cells.degraded([(1, 1)], 1, 1), "exit 2 is not allowed"


def test_three_answers_in_a_row_are_worth_their_best_pair() -> None:
    """Whichever of the pairs that is: what all three are worth was not measured."""
    sizes = tuple(replace(SMALL, name="cells", input_width=width) for width in (64, 96, 128))
    names = [f"{width}x96" for width in (64, 96, 128)]
    pairs = {(0, 1): 0.55, (0, 2): 0.7, (1, 2): 0.6}
    merged = tuple(
        MergedAccuracy(SizedExit(names[first], 2), SizedExit(names[then], 2), ap, 0.9)
        for (first, then), ap in pairs.items()
    )
    cells = Family((ModelEntry(sizes, merging=Merging(32.0, 0.5), merged=merged),))
    for pair, ap in pairs.items():
        assert cells.answer_ap([(model, 2) for model in pair]) == ap
    chain = [(0, 2), (1, 2), (2, 2)]
    assert cells.answer_ap(chain) == max(pairs.values())
    assert not cells.degraded(chain, 1, 2)
    assert cells.degraded(chain[1:], 1, 2)


def test_without_accuracies_deeper_is_better() -> None:
    family = family_of(member("unknown", 0.0, 0.0, 0.0))
    assert [family.degraded([(0, depth)], 1, 3) for depth in (1, 2, 3)] == [True, True, False]
    assert len(family.front(lambda depth, _: depth / 1e3).points) == 3


def test_max_depth_of_a_shallower_model() -> None:
    assert [FAMILY.deepest(model, 3) for model in (0, 1)] == [2, 3]
    assert FAMILY.deepest(1, 2) == 2
    assert FAMILY.expected_ap(1, 2) == 0.6


def test_front_over_all_models() -> None:
    front = FAMILY.front(lambda depth, model: 0.004 * depth + 0.006 * model)
    assert [(p.model, p.depth, p.ap) for p in front.points] == [
        (0, 1, 0.4),
        (0, 2, 0.5),
        (1, 2, 0.6),
    ]
    assert [(each.point.model, each.point.depth) for each in front.dropped] == [(1, 1), (1, 3)]


def test_one_profile_of_all_models() -> None:
    def profile(seconds: float) -> LatencyProfile:
        table = {(segments.STEM, 1): Quantiles(*[seconds] * 3)}
        return LatencyProfile("fake 1", "here", "2026-01-01", 1, table)

    def measured(catalog: Catalog, seconds: float) -> Catalog:
        return replace(catalog, profiles={"fake": profile(seconds)})

    assert FAMILY.profile("fake") is None
    both = family_of(measured(SMALL, 0.001), measured(LARGE, 0.002)).profile("fake")
    assert both is not None
    stems = {segments.STEM: 0.001, segments.STEM.of(1): 0.002}
    assert {segment: q.p50_s for (segment, _), q in both.table.items()} == stems
    assert LatencyProfile.from_json(both.to_json()) == both
    second = family_of(SMALL, measured(LARGE, 0.002)).profile("fake")
    assert second is not None
    assert [segment for segment, _ in second.table] == [segments.STEM.of(1)]
