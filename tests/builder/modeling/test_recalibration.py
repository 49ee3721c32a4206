"""Normalisation statistics of the images and the size that are served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from builder.config.named import CONFIGS
from builder.modeling.architectures import AnyDetector, at_size, first_exits, make_detector
from builder.modeling.recalibration import BATCH_SIZE, measure_statistics, recalibrate
from tests.builder.tiny import TINY


@pytest.fixture
def detector() -> AnyDetector:
    torch.manual_seed(0)
    return make_detector(TINY.detector).eval()


def images(count: int, side: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


def test_statistics_are_those_of_the_images(detector: AnyDetector) -> None:
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    found = images(BATCH_SIZE, 256)
    recalibrated = recalibrate(at_size(detector, (256, 256)), found)
    assert not any(module.training for module in recalibrated.modules())
    assert recalibrated.config.input_size == (256, 256)
    first = next(m for m in recalibrated.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    first.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        recalibrated(torch.from_numpy(np.stack(found)))
    torch.testing.assert_close(first.running_mean, seen[0].mean((0, 2, 3)))
    for name, value in detector.state_dict().items():
        assert torch.equal(value, before[name]), "the detector itself is as it was"
    weights = dict(recalibrated.named_parameters())
    for name, value in detector.named_parameters():
        assert torch.equal(value, weights[name]), "nothing is trained"


def test_more_images_than_one_batch_count_alike(detector: AnyDetector) -> None:
    found = images(2 * BATCH_SIZE, 128)
    halves = [recalibrate(detector, found[:BATCH_SIZE]), recalibrate(detector, found[BATCH_SIZE:])]
    name = next(name for name in detector.state_dict() if name.endswith("running_mean"))
    means = [half.state_dict()[name] for half in halves]
    torch.testing.assert_close(recalibrate(detector, found).state_dict()[name], sum(means) / 2)


def test_what_a_backbone_made_of_images_tells_nothing_of_the_backbone(
    detector: AnyDetector,
) -> None:
    inputs = torch.from_numpy(np.stack(images(4, 128)))
    with torch.no_grad():
        maps = detector.backbone_maps(inputs)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    measure_statistics(detector, [maps])
    changed = {
        name
        for name, value in detector.state_dict().items()
        if not torch.equal(value, before[name])
    }
    means = {name for name in before if name.endswith("running_mean")}
    assert changed & means == {name for name in means if not name.startswith("backbone.")}
    assert not any(module.training for module in detector.modules())
    with pytest.raises(ValueError, match="at least one image"):
        measure_statistics(detector, [])


def test_what_cannot_be_recalibrated_is_refused(detector: AnyDetector) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        recalibrate(detector, [])
    plain = replace(CONFIGS["everyday"].detector, plain_exit=True, num_stacks=1)
    alone = first_exits(make_detector(plain), 1)
    with pytest.raises(ValueError, match="everyday has no normalisation"):
        recalibrate(alone, images(1, 300))
