"""Exits that begin as the detector that they are built on, at every input size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from builder.config.detector import DetectorConfig
from builder.config.named import CONFIGS
from builder.modeling.anytime_ssd import AnytimeSSD
from builder.modeling.architectures import (
    at_size,
    backbone_stages,
    first_exits,
    freeze_backbone,
    make_detector,
)
from builder.modeling.cost import exit_costs
from builder.modeling.detector import Detector

CONFIG = replace(
    CONFIGS["everyday"].detector,
    classes=("a", "b", "c"),
    input_size=(108, 108),
    served_sizes=(),
    neck_channels=8,
    num_stacks=2,
    plain_exit=False,
    max_candidates=20,
    max_detections=20,
)


@pytest.fixture
def detector() -> AnytimeSSD:
    torch.manual_seed(0)
    made = make_detector(CONFIG)
    assert isinstance(made, AnytimeSSD)
    return made.eval()


def images(side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("side", [76, 108, 128])
def test_untrained_exits_are_ssdlite(detector: AnytimeSSD, side: int) -> None:
    resized = at_size(detector, (side, side))
    with torch.no_grad():
        logits, deltas = detector.backbone(images(side))
        outputs = resized(images(side))
    assert list(outputs) == [1, 2]
    for found_logits, found_deltas in outputs.values():
        assert torch.equal(found_logits, logits)
        assert torch.equal(found_deltas, deltas)
    assert resized.anchors.shape == (logits.shape[1], 4)


def test_segments_are_what_forward_does(detector: AnytimeSSD) -> None:
    for stack in detector.stacks:
        for refinement in stack.refinements:
            torch.nn.init.normal_(refinement.predict.weight)
    with torch.no_grad():
        features = detector.stem(images(108))
        shapes = [tuple(x.shape[1:]) for x in features]
        assert shapes == list(detector.feature_shapes().values())
        for depth, (logits, deltas) in detector(images(108)).items():
            features = detector.stack(depth, features)
            assert [tuple(x.shape[1:]) for x in features] == shapes
            again = detector.head(depth, features)
            assert torch.equal(again[0], logits)
            assert torch.equal(again[1], deltas)


def test_an_exit_before_the_first_stack(detector: AnytimeSSD) -> None:
    config = replace(CONFIG, plain_exit=True)
    assert (CONFIG.num_exits, config.num_exits) == (2, 3)
    for stack in detector.stacks:
        for refinement in stack.refinements:
            torch.nn.init.normal_(refinement.predict.weight)
    plain = make_detector(config).eval()
    plain.load_state_dict(detector.state_dict())
    with torch.no_grad():
        without, found = detector(images(108)), plain(images(108))
        logits, deltas = detector.backbone(images(108))
    assert torch.equal(found[1][0], logits)
    assert torch.equal(found[1][1], deltas)
    for depth in (1, 2):
        assert torch.equal(found[depth + 1][0], without[depth][0])
    first, second, _ = exit_costs(config)
    assert first.parameters < second.parameters == exit_costs(CONFIG)[0].parameters
    with pytest.raises(ValueError, match="plain_exit"):
        replace(config, architecture="retinanet", input_size=(128, 128))


def test_the_first_exits_alone(detector: AnytimeSSD) -> None:
    """They find what they found; what only later exits need is gone."""
    plain = make_detector(replace(CONFIG, plain_exit=True)).eval()
    plain.load_state_dict(detector.state_dict())
    with torch.no_grad():
        whole = plain(images(108))
        for count in (1, 2, 3):
            part = first_exits(plain, count)
            assert part.config.num_exits == count
            for depth, (logits, deltas) in part(images(108)).items():
                assert torch.equal(logits, whole[depth][0])
                assert torch.equal(deltas, whole[depth][1])
    only = first_exits(plain, 1)
    assert list(only.feature_shapes()) == ["logits", "deltas"]
    assert {name.partition(".")[0] for name in only.state_dict()} == {"backbone"}
    with pytest.raises(ValueError, match="exits are 1 to 3, not 4"):
        first_exits(plain, 4)


def test_every_weight_learns_once_predictions_have_begun(detector: AnytimeSSD) -> None:
    for stack in detector.stacks:
        for refinement in stack.refinements:
            torch.nn.init.normal_(refinement.predict.weight)
    outputs = detector.train()(images(108))
    sum(x.square().sum() for pair in outputs.values() for x in pair).backward()
    assert [name for name, value in detector.named_parameters() if value.grad is None] == []


def test_anchors_per_map(detector: AnytimeSSD) -> None:
    assert sum(detector.anchors_per_level()) == len(detector.anchors)
    assert detector.anchors_per_level()[:2] == (7 * 7 * 3, 4 * 4 * 6)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({}, 18),
        ({"architecture": "retinanet", "input_size": (128, 128)}, 18),
        ({"architecture": "retinanet", "input_size": (128, 128), "backbone": "resnet18"}, 5),
        (
            {
                "architecture": "retinanet",
                "input_size": (128, 128),
                "backbone": "amoebanet_d",
                "backbone_layers": 3,
                "backbone_width": 8,
            },
            8,
        ),
    ],
)
def test_frozen_parts_do_not_change(change: dict[str, Any], parts: int) -> None:
    detector = make_detector(replace(CONFIG, **change))
    stages = backbone_stages(detector)
    assert len(stages) == parts
    freeze_backbone(detector, 2, norms=False)
    frozen = [value for stage in stages[:2] for part in stage for value in part.parameters()]
    others = [value for stage in stages[2:] for part in stage for value in part.parameters()]
    assert not any(value.requires_grad for value in frozen)
    assert all(value.requires_grad for value in others)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    detector.train()(images(detector.config.input_size[0]))
    buffers = [value for stage in stages[:2] for part in stage for value in part.buffers()]
    changed = {
        value.data_ptr()
        for name, value in detector.state_dict().items()
        if not torch.equal(before[name], value)
    }
    assert not any(value.data_ptr() in changed for value in buffers)
    with pytest.raises(ValueError, match=f"{parts} parts"):
        freeze_backbone(detector, parts + 1, norms=False)


def test_frozen_normalisation_is_as_it_was() -> None:
    detector = make_detector(
        replace(CONFIG, architecture="retinanet", input_size=(128, 128), backbone="resnet18")
    )
    assert isinstance(detector, Detector)
    freeze_backbone(detector, 0, norms=True)
    statistics = {name: value.clone() for name, value in detector.backbone.named_buffers()}
    detector.train()(images(128))
    for name, value in detector.backbone.named_buffers():
        assert torch.equal(statistics[name], value), name
    assert detector.neck_input.laterals[0][1].num_batches_tracked == 1


@pytest.mark.parametrize("change", [{"backbone": "resnet18"}, {"backbone_width": 16}])
def test_ssdlite_has_its_backbone(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ssdlite is mobilenet_v2 of width 32"):
        replace(CONFIG, **change)


def test_configuration_survives_json() -> None:
    assert DetectorConfig.from_dict(CONFIG.to_dict()) == CONFIG
