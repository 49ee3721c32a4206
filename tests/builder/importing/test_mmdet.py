"""Import of MMDetection's NAS-FPN: every key, and the numbers of an independent reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from builder.importing import WeightsError, load_nas_fpn
from builder.importing.mmdet import class_names
from builder.modeling.detector import PIXEL_MEAN, PIXEL_STD, Detector
from tests.builder.importing import mmdet_reference as reference

CLASSES = ("cell", "platelet")
SIZE = (128, 256)


def random_state(version: str = "current", **changes: int) -> reference.State:
    sizes = {"width": 8, "channels": 8, "stacks": 2, "convs": 2, "classes": 2, **changes}
    return reference.random_state(**sizes, version=version)


def load(state: reference.State, **options: object) -> Detector:
    given: dict[str, Any] = {"name": "imported", "classes": CLASSES, "input_size": SIZE, **options}
    return load_nas_fpn(state, **given)


@pytest.mark.parametrize("version", ["current", "1.x"])
@torch.no_grad()
def test_features_logits_boxes_and_anchors_are_those_of_the_reference(version: str) -> None:
    state = random_state(version)
    detector = load(state)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, *SIZE, 3), dtype=torch.uint8, generator=generator)
    pixels = images.permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in (PIXEL_MEAN, PIXEL_STD))
    want = reference.nas_fpn(state, reference.resnet(state, (pixels - mean) / std))
    got = detector.stack(1, detector.stem(images))
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert theirs.std() > 0.1  # there is something to compare

    logits, deltas = detector.head(1, got)
    start = 0
    for level, (their_logits, their_deltas) in enumerate(reference.head(state, want)):
        _, height, width, num_anchors, _ = their_logits.shape
        their_anchors = reference.anchors(height, width, 8 * 2**level)
        rows = slice(start, start + height * width * num_anchors)
        # Theirs has ratios before scales, ours scales before ratios.
        for ours, theirs in (
            (logits[:, rows], their_logits),
            (deltas[:, rows], their_deltas),
            (detector.anchors[rows][None], their_anchors[None]),
        ):
            ordered = theirs.unflatten(3, (3, 3)).transpose(3, 4).flatten(1, 4)
            torch.testing.assert_close(ours, ordered, rtol=1e-4, atol=1e-3)
        start = rows.stop
    assert start == len(detector.anchors)


def test_the_published_layout_has_as_many_keys() -> None:
    """935 keys and 59.98 M parameters: MMDetection 3.3's model of 80 classes, counted. The towers'
    convolutions are counted once there, and have biases here: 8 of 256."""
    state = random_state(stacks=7, convs=4, classes=80)
    assert len(state) == 935
    detector = load(state, classes=tuple(map(str, range(80))))
    config = detector.config
    assert (config.backbone, config.num_stacks, config.num_exits) == ("resnet50", 7, 1)
    assert (config.flavour, config.anchor_offset) == ("mmdet", 0.0)
    with torch.device("meta"):
        full = Detector(replace(config, backbone_width=64, neck_channels=256, head_channels=256))
    count = sum(p.numel() for p in full.parameters()) - 8 * 256
    assert count / 1e6 == pytest.approx(59.98, abs=0.005)


@torch.no_grad()
def test_exits_after_every_stack_start_from_the_head_that_there_is() -> None:
    state = random_state()
    one, every = load(state), load(state, every_exit=True)
    assert (one.config.num_exits, every.config.num_exits) == (1, 2)
    images = torch.zeros(1, *SIZE, 3, dtype=torch.uint8)
    for ours, theirs in zip(every(images)[2], one(images)[1], strict=True):
        assert torch.equal(ours, theirs)


Change = Callable[[reference.State], object]
REG = "bbox_head.retina_reg.weight"
CONV = "neck.fpn_stages.1.sum_55_5.out_conv.conv.weight"
CELL_BIAS = "neck.fpn_stages.1.sum_55_5.out_conv.conv.bias"
COPY = "bbox_head.cls_convs.3.1.conv.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(CONV), rf"'{CONV}' \(8, 8, 3, 3\) is missing"),
        (
            lambda s: s.update({CONV: torch.zeros(8, 8, 1, 1)}),
            rf"'{CONV}' has shape \(8, 8, 1, 1\), expected \(8, 8, 3, 3\)",
        ),
        (
            lambda s: s.update({"neck.extra.weight": torch.zeros(3)}),
            r"nothing here corresponds to 'neck.extra.weight' \(3,\)",
        ),
        (
            lambda s: s.update({COPY: s[COPY] + 1}),
            f"'{COPY}' differs from 'bbox_head.cls_convs.0.1.conv.weight'",
        ),
        (lambda s: s.pop("backbone.layer2.1.bn2.running_var"), "bn2.running_var' .* is missing"),
        (lambda s: s.pop("backbone.conv1.weight"), "'backbone.conv1.weight' is missing: no Retina"),
        (
            lambda s: [s.pop(key) for key in list(s) if key.startswith("backbone.layer3.5")],
            r"\(3, 4, 5, 3\) blocks",
        ),
        (
            lambda s: [s.pop(key) for key in list(s) if "fpn_stages" in key],
            "'neck.fpn_stages.0' is missing",
        ),
        (lambda s: s.update({REG: torch.zeros(24, 8, 3, 3)}), f"'{REG}' has 24 outputs, 9 anchors"),
        (
            lambda s: s.update({REG: torch.tensor(1.0)}),
            rf"'{REG}' has shape \(\), a kernel has four",
        ),
        (lambda s: s.pop(CELL_BIAS), f"'{CELL_BIAS}' .* is missing"),
        (
            lambda s: [s.pop(key) for key in list(s) if key.endswith(".out_conv.conv.bias")],
            "out_conv.conv.bias' .* is missing",
        ),
        (lambda s: s[CONV].fill_(float("nan")), f"'{CONV}' has values that are not finite"),
        (lambda s: s.update({CONV: s[CONV].int()}), f"'{CONV}' is of type torch.int32"),
    ],
)
def test_a_wrong_file_names_the_first_key(change: Change, message: str) -> None:
    state = random_state()
    change(state)
    with pytest.raises(WeightsError, match=message):
        load(state)


def test_classes_must_be_as_many_as_there_are() -> None:
    with pytest.raises(WeightsError, match="the names of its 2 classes are not in it"):
        load(random_state(), classes=None)
    with pytest.raises(WeightsError, match="18 outputs, 9 anchors of 3 classes need 27"):
        load(random_state(), classes=("a", "b", "c"))


@pytest.mark.parametrize(
    ("beside", "names"),
    [
        ({"meta": {"CLASSES": ("a", "b")}}, ("a", "b")),
        ({"meta": {"dataset_meta": {"classes": ["a"]}}}, ("a",)),
        ({"meta": {}}, None),
        ({"meta": [1]}, None),
        ({"meta": {"dataset_meta": "x"}}, None),
        ({}, None),
    ],
)
def test_class_names_come_from_either_kind_of_metadata(
    beside: dict, names: tuple[str, ...] | None
) -> None:
    assert class_names(beside) == names


@pytest.mark.parametrize("names", ["cell", 3, True, [1, 2]])
def test_what_is_no_list_of_names_is_refused(names: object) -> None:
    """``("cell")`` without its comma is a word, not a list of one."""
    with pytest.raises(WeightsError, match="no list of names"):
        class_names({"meta": {"CLASSES": names}})
