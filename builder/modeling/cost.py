"""What a detector costs: multiply-accumulates of its convolutions, and parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from builder.config import DetectorConfig
from builder.modeling.detector import Detector


def count_conv_macs(model: nn.Module, run: Callable[[], Any]) -> int:
    """Multiply-accumulates of every convolution of ``model`` that ``run`` executes."""
    total = 0

    def add(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += output.numel() * module.weight[0].numel()

    hooks = [
        module.register_forward_hook(add)
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return total


def exit_macs(config: DetectorConfig) -> tuple[int, ...]:
    """Multiply-accumulates per image from the image to the raw outputs of each exit, one head run
    each. Computed on the meta device: shapes only."""
    with torch.device("meta"):
        detector = Detector(config).eval()
    images = torch.empty(1, *config.input_size, 3, dtype=torch.uint8, device="meta")
    return tuple(
        count_conv_macs(detector, lambda depth=depth: detector(images, [depth]))  # type: ignore[misc]
        for depth in range(1, config.num_exits + 1)
    )


def count_parameters(model: nn.Module) -> int:
    """Trainable values, normalisation scales and shifts included."""
    return sum(parameter.numel() for parameter in model.parameters())
