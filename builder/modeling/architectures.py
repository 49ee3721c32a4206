"""Detectors by architecture, and what all of them can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import nn

from builder.config.detector import DetectorConfig
from builder.modeling.anytime_ssd import AnytimeSSD
from builder.modeling.backbones.amoebanet import AmoebaNetD
from builder.modeling.backbones.mobilenet_v2 import MobileNetV2
from builder.modeling.backbones.resnet import ResNet
from builder.modeling.detector import Detector
from builder.modeling.ssdlite import SSDLite

AnyDetector = Detector | AnytimeSSD

ARCHITECTURES: dict[str, Callable[[DetectorConfig], AnyDetector]] = {
    "retinanet": Detector,
    "ssdlite": AnytimeSSD,
}


def make_detector(config: DetectorConfig) -> AnyDetector:
    """Return the detector that ``config`` describes, with random weights."""
    return ARCHITECTURES[config.architecture](config)


def at_size(detector: AnyDetector, input_size: tuple[int, int]) -> AnyDetector:
    """Return a copy of ``detector`` for an input of (height, width), with the same weights.

    It is in the same mode and on the same device. Raises ValueError for a size that the structure
    cannot have.
    """
    return _remade(detector, replace(detector.config, input_size=input_size))


def first_exits(detector: AnyDetector, count: int) -> AnyDetector:
    """Return a copy of ``detector`` that ends at exit ``count``, with the same weights.

    It is in the same mode and on the same device. Raises ValueError for an exit that cannot be the
    last one.
    """
    return _remade(detector, detector.config.up_to(count))


def _remade(detector: AnyDetector, config: DetectorConfig) -> AnyDetector:
    """Return a copy of ``detector`` that is made as ``config`` says, of weights that it has."""
    remade = make_detector(config)
    weights = detector.state_dict()
    remade.load_state_dict({name: weights[name] for name in remade.state_dict()})
    return remade.to(detector.anchors.device).train(detector.training)


def backbone_stages(detector: AnyDetector) -> list[list[nn.Module]]:
    """Return the backbone in parts that may be frozen, from the image on.

    Parts are the stem, then stages of a ResNet, blocks of MobileNetV2 or cells of AmoebaNet-D. What
    follows them is no part.
    """
    return list(_stages(detector.backbone))


def _stages(backbone: nn.Module) -> Iterator[list[nn.Module]]:
    if isinstance(backbone, SSDLite):
        yield from ([part] for part in (backbone.stem, *backbone.blocks))
    elif isinstance(backbone, ResNet):
        yield [backbone.conv1, backbone.bn1]
        yield from (
            [part] for part in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
        )
    elif isinstance(backbone, MobileNetV2):
        yield from ([part] for part in backbone.features)
    elif isinstance(backbone, AmoebaNetD):
        yield from ([part] for part in (backbone.stem, *backbone.cells))


def freeze_backbone(detector: AnyDetector, num_stages: int, norms: bool) -> None:
    """Take the first ``num_stages`` parts of the backbone out of training.

    With ``norms``, all of its normalisations are taken out too. Of what is taken out, neither
    parameters nor statistics change from now on. Raises ValueError if there are fewer parts.
    """
    stages = backbone_stages(detector)
    if num_stages > len(stages):
        raise ValueError(f"the backbone has {len(stages)} parts to freeze, not {num_stages}")
    frozen = [module for stage in stages[:num_stages] for module in stage]
    for module in frozen:
        module.requires_grad_(False)
    of_norms = (detector.backbone,) if norms else frozen
    for module in (norm for part in of_norms for norm in part.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
            module.register_forward_pre_hook(_as_trained)


def _as_trained(norm: nn.Module, _: object) -> None:
    """Keep a normalisation in inference, whatever mode the model is put into."""
    norm.training = False
