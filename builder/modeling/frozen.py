"""A detector as it is exported: inference mode, and every unit segment a module of its own.

Needs torch alone, so that every exporter can start from it, whatever else it needs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from builder.modeling.architectures import AnyDetector
from serving.core import segment as segments

MIN_HALF_ELEMENTS = 4096
"""Fewest elements of a kernel that is stored in half precision.

Smaller ones are not worth a widening step.
"""


class _Affine(nn.Module):
    """Batch normalisation at inference as a scale and a shift.

    It is kept apart from the convolution before it: a head's kernel is shared by all levels and
    would otherwise be stored once for each, and half precision is exact only for a kernel that is
    not scaled afterwards. Runtimes fold it in when they load the file.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale.detach().reshape(1, -1, 1, 1))
        shift = norm.bias - norm.running_mean * scale
        self.register_buffer("shift", shift.detach().reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def _replace_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _Affine(child))
        else:
            _replace_norms(child)


def freeze(detector: AnyDetector) -> AnyDetector:
    """Return a copy of the detector as it is exported.

    It is in inference mode, its normalisations are reduced to scale and shift, and the kernels that
    are stored in half precision are rounded to it. What the segments compute is what this computes,
    up to the order of float32 additions.
    """
    frozen = copy.deepcopy(detector).eval()
    _replace_norms(frozen)
    for module in frozen.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() >= MIN_HALF_ELEMENTS:
            module.weight.data = module.weight.data.half().float()
    return frozen


class TensorFunction(nn.Module):
    """A module around a function of the detector, since the exporter takes modules."""

    def __init__(self, detector: AnyDetector, function: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.detector = detector
        self._function = function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self._function(*inputs)


def segment_functions(detector: AnyDetector) -> dict[segments.Segment, nn.Module]:
    """Return every unit segment as a module of positional tensors.

    Images (B, H, W, 3) uint8 or P3..P7 go in, P3..P7 or (boxes, scores, labels, counts) come out.
    """

    def stem(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(detector.stem(images))

    def stack(depth: int) -> Callable[..., tuple[Tensor, ...]]:
        return lambda *features: tuple(detector.stack(depth, list(features)))

    def head(depth: int) -> Callable[..., tuple[Tensor, ...]]:
        return lambda *features: detector.postprocess(detector.head(depth, list(features)))

    depths = range(1, detector.config.num_exits + 1)
    functions = {
        segments.STEM: stem,
        **{segments.stack(depth): stack(depth) for depth in depths},
        **{segments.head(depth): head(depth) for depth in depths},
    }
    return {segment: TensorFunction(detector, function) for segment, function in functions.items()}


def example_inputs(detector: AnyDetector, segment: segments.Segment) -> tuple[Tensor, ...]:
    """Return zeros of the shapes that ``segment`` takes, batch 1."""
    height, width = detector.config.input_size
    if segment.start == segments.IMAGE:
        return (torch.zeros(1, height, width, 3, dtype=torch.uint8),)
    return tuple(torch.zeros(1, *shape) for shape in detector.feature_shapes().values())
