"""What a detector costs: multiply-accumulates of its convolutions, and parameters, by exit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from builder.config import DetectorConfig, replace
from builder.modeling.architectures import make_detector

WIDTH_STEP = 2
"""Channels by which the width of a neck may differ from another's."""

COST_TOLERANCE = 0.05
"""Share by which exits of equal cost may differ."""


@dataclass(frozen=True, slots=True)
class ExitCost:
    """Of one image that leaves by this exit, with one head run; and of a model that ends here."""

    backbone_macs: int
    neck_macs: int
    head_macs: int
    parameters: int
    """Trainable values, normalisation scales and shifts included."""

    @property
    def macs(self) -> int:
        """From the image to the raw outputs."""
        return self.backbone_macs + self.neck_macs + self.head_macs


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


@lru_cache(maxsize=64)
def exit_costs(config: DetectorConfig) -> tuple[ExitCost, ...]:
    """The cost of every exit. Computed on the meta device: shapes only."""
    with torch.device("meta"):
        detector = make_detector(config).eval()
    images = torch.empty(1, *config.input_size, 3, dtype=torch.uint8, device="meta")
    backbone_macs = count_conv_macs(detector.backbone, lambda: detector.stem(images))
    neck_macs = count_conv_macs(detector.neck_input, lambda: detector.stem(images))
    parameters = count_parameters(detector.backbone) + count_parameters(detector.neck_input)
    features = detector.stem(images)
    costs = []
    for depth in range(1, config.num_exits + 1):
        # Every part and every head takes features of the same shapes.
        neck_macs += count_conv_macs(detector, lambda k=depth: detector.stack(k, features))  # type: ignore[misc]
        head_macs = count_conv_macs(detector, lambda k=depth: detector.head(k, features))  # type: ignore[misc]
        parameters += sum(count_parameters(detector.stacks[k]) for k in config.stacks_of(depth))
        of_head = detector.head_parameters(depth)
        costs.append(ExitCost(backbone_macs, neck_macs, head_macs, parameters + of_head))
    return tuple(costs)


def with_neck_of_equal_cost(config: DetectorConfig, neck: str) -> DetectorConfig:
    """The detector with another built-in neck, as wide as makes its exits cost what they did.

    Of all even widths the one whose exits' multiply-accumulates differ least, by the largest share
    over exits. Raises ValueError if that is more than COST_TOLERANCE.
    """
    wanted = [cost.macs for cost in exit_costs(config)]

    def other(width: int) -> DetectorConfig:
        return replace(config, neck=neck, graph=(), neck_channels=width)

    def difference(width: int) -> float:
        found = [cost.macs for cost in exit_costs(other(width))]
        return max(abs(macs / of - 1) for macs, of in zip(found, wanted, strict=True))

    widths = range(WIDTH_STEP, 4 * config.neck_channels, WIDTH_STEP)
    above = bisect_left(widths, wanted[-1], key=lambda width: exit_costs(other(width))[-1].macs)
    best = min(widths[max(0, above - 1) : above + 1], key=difference, default=widths[0])
    if (share := difference(best)) > COST_TOLERANCE:
        raise ValueError(f"no width of {neck} costs what {config.neck} does: {share:.0%} at best")
    return other(best)


def count_parameters(model: nn.Module) -> int:
    """Trainable values, normalisation scales and shifts included."""
    return sum(parameter.numel() for parameter in model.parameters())
