"""Figures: which detectors are in them, what they say of each, and how that is shown."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from builder.config.configuration import Config
from builder.config.detector import DetectorConfig
from builder.config.named import CONFIGS
from builder.config.pyramid_graphs import GRAPHS
from builder.config.recipe import TrainConfig
from builder.measuring.figures import (
    BACKBONES,
    DROP_BLOCK,
    FIGURES,
    MAX_DIFFERENCE,
    Variant,
    as_html,
    as_json,
    as_markdown,
    fpn_of,
    macs_ratio,
    of_equal_cost,
    points_of,
    trials,
)
from builder.modeling.cost import exit_costs
from tests.builder.tiny import TINY

CONFIG = Config(TINY.detector, replace(TINY.train, validation_split="val"))
LITE = Config(
    replace(
        CONFIGS["bccd_lite"].detector,
        input_size=(128, 192),
        num_stacks=1,
        neck_channels=12,
        head_channels=12,
    ),
    CONFIG.train,
)


def made_up_ratio(detector: DetectorConfig, reference: DetectorConfig) -> float:
    """Of costs that take no time to count: channels, or a share of the sides of an SSDLite."""

    def cost(of: DetectorConfig) -> float:
        return of.neck_channels if of.num_stacks else sum(of.input_size) / 20

    return cost(detector) / cost(reference)


def variants_of(name: str) -> list[Variant]:
    return list(FIGURES[name].variants(LITE if name == "lite" else CONFIG, macs_ratio))


def changed(variant: Variant, base: Config) -> set[str]:
    """Fields in which a variant differs from what it is a variant of."""
    return {
        name
        for part in ("detector", "train")
        for name, value in asdict(getattr(variant.config, part)).items()
        if value != getattr(getattr(base, part), name)
    }


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("stacking", {"neck", "num_stacks"}),
        ("backbones", {"backbone"}),
        ("widths", {"neck_channels", "head_channels", "drop_block"}),
    ],
)
def test_variants_differ_in_what_the_figure_is_of(name: str, fields: set[str]) -> None:
    variants = variants_of(name)
    assert set().union(*(changed(each, CONFIG) for each in variants)) == fields
    assert len({each.name for each in variants}) == len({each.config for each in variants})


def test_every_number_of_stacks_of_both_pyramids() -> None:
    points = {(each.series, each.config.detector.num_stacks) for each in variants_of("stacking")}
    assert points == {(neck, count) for neck in ("nas_fpn", "fpn") for count in (1, 2, 3)}
    assert all(
        each.points == ((count, count),)
        for each in variants_of("stacking")
        for count in [each.config.detector.num_stacks]
    )


def test_every_exit_on_every_backbone() -> None:
    variants = variants_of("backbones")
    assert tuple(each.series for each in variants) == BACKBONES
    assert all(each.points == ((1, 1), (2, 2), (3, 3)) for each in variants)


def test_two_widths_without_and_with_drop_block() -> None:
    found = [
        (
            each.config.detector.neck_channels,
            each.config.detector.head_channels,
            each.config.train.drop_block,
        )
        for each in variants_of("widths")
    ]
    assert found == [(8, 8, 0.0), (12, 12, 0.0), (8, 8, DROP_BLOCK), (12, 12, DROP_BLOCK)]


@pytest.mark.slow
def test_lite_detectors_cost_the_same() -> None:
    variants = variants_of("lite")
    assert [each.series for each in variants] == ["nas_fpn_p6", "FPNLite", "SSDLite"] * 2
    for own, *rivals in (variants[:3], variants[3:]):
        for rival in rivals:
            ratio = macs_ratio(rival.config.detector, own.config.detector)
            assert ratio == pytest.approx(1, abs=MAX_DIFFERENCE)
            assert rival.config.train == own.config.train
    narrow, wide = (v.config.detector.neck_channels for v in (variants[0], variants[3]))
    assert (narrow, wide) == (12, 16)
    aspects = {v.config.detector.input_size[1] / v.config.detector.input_size[0] for v in variants}
    assert aspects == {1.5}


def test_lite_detectors_have_a_searched_pyramid_by_its_own_name() -> None:
    rows = GRAPHS["nas_fpn_p6"].rows
    searched = replace(LITE, detector=replace(LITE.detector, neck="winner", graph=rows))
    variants = list(FIGURES["lite"].variants(searched, made_up_ratio))
    assert [each.series for each in variants[:3]] == ["winner", "FPNLite", "SSDLite"]
    assert variants[0].config.detector.graph == rows
    assert variants[1].config.detector.pyramid == GRAPHS["fpn_p6"]


def test_what_no_rival_costs_is_refused() -> None:
    def twice_at_least(detector: DetectorConfig, _: DetectorConfig) -> float:
        return 2.0 + detector.neck_channels

    candidates = [replace(CONFIG.detector, neck_channels=width) for width in (2, 4)]
    with pytest.raises(ValueError, match="costs what nas_fpn with 8 channels does: 300% at best"):
        of_equal_cost(CONFIG.detector, candidates, twice_at_least)
    with pytest.raises(ValueError, match="ssdlite is mobilenet_v2"):
        list(FIGURES["lite"].variants(CONFIG, made_up_ratio))


def test_the_nearest_of_all_costs_is_taken() -> None:
    candidates = [replace(CONFIG.detector, neck_channels=width) for width in range(1, 40)]
    assert of_equal_cost(CONFIG.detector, candidates, made_up_ratio) == CONFIG.detector


def test_fpn_of_any_levels() -> None:
    assert [fpn_of(range(3, last + 1)) for last in (5, 6, 7)] == ["fpn_p5", "fpn_p6", "fpn"]
    with pytest.raises(ValueError, match="no FPN of P3 to P8"):
        fpn_of(range(3, 9))


def test_runs_go_seed_by_seed() -> None:
    planned = trials(variants_of("widths"), [5, 6])
    assert [str(trial.folder) for trial in planned[:5]] == [
        *("8/seed_5", "12/seed_5", "8-drop_block/seed_5", "12-drop_block/seed_5", "8/seed_6")
    ]
    assert [trial.config.train.seed for trial in planned] == [5] * 4 + [6] * 4
    assert planned[0].exits == (3,)


ABOUT = {
    "command": "punctual figure <b>",
    "machine": "m",
    "date": "2026-01-01",
    "dataset": "bccd",
    "split": "val",
    "epochs": 2,
    "runtime": None,
    "rounds": 0,
    "threads": 1,
}


def test_points_have_costs_times_and_accuracies() -> None:
    variants = variants_of("stacking")[:2]
    results = {
        "nas_fpn-2": {0: {"ap": {2: 0.4}, "ap50": {2: 0.6}}, 1: {"ap": {2: 0.5}, "ap50": {2: 0.6}}}
    }
    points = points_of(variants, [{1: 3.25}, {2: 4.5}], results)
    assert [(point.exit, point.x, point.stacks, point.ms) for point in points] == [
        (1, 1, 1, 3.25),
        (2, 2, 2, 4.5),
    ]
    costs = [exit_costs(each.config.detector)[-1] for each in variants]
    assert [(p.macs, p.parameters) for p in points] == [(c.macs, c.parameters) for c in costs]
    assert (points[0].mean_ap, points[1].mean_ap) == (None, pytest.approx(0.45))

    about = {**ABOUT, "runtime": "openvino", "rounds": 7}
    text = as_markdown(FIGURES["stacking"], about, points)
    assert "AP on bccd val after 2 epochs, m, 2026-01-01." in text
    assert "medians of 7 interleaved rounds on openvino, threads: 1." in text
    assert "| 3.25 | - | - | 0 |" in text
    assert "| 4.50 | 0.450 ± 0.071 | 0.600 ± 0.000 | 2 |" in text
    page = as_html(FIGURES["stacking"], about, points)
    for label in ("stacks", "GMAC", "M parameters", "ms"):
        assert f"AP against {label}" in page
    assert "punctual figure &lt;b&gt;" in page
    assert as_json(about, points)["points"][1]["ap"] == (0.4, 0.5)


def test_of_what_was_not_trained_costs_are_drawn() -> None:
    points = points_of(variants_of("backbones"), None, {})
    page = as_html(FIGURES["backbones"], ABOUT, points)
    assert "GMAC against exit" in page
    assert "M parameters against exit" in page
    assert "AP against" not in page
    assert "ms against" not in page  # nothing was measured
    assert "epochs" not in as_markdown(FIGURES["backbones"], ABOUT, points)


def test_the_recipe_of_the_lite_figure_is_the_papers_in_widths_and_backbone() -> None:
    detector, recipe = CONFIGS["bccd_lite"].detector, CONFIGS["bccd_lite"].train
    assert (detector.backbone, detector.backbone_width) == ("mobilenet_v2", 32)
    assert (detector.neck_channels, 4 * detector.neck_channels // 3) == (48, 64)
    assert (detector.levels, detector.conv) == ((3, 4, 5, 6), "separable")
    assert isinstance(recipe, TrainConfig)
