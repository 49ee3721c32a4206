"""Cost of a detector by exit: multiply-accumulates of its convolutions, and parameters."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from builder.config.detector import DetectorConfig
from builder.modeling.architectures import make_detector

WIDTH_STEP = 2
"""Step in channels between the widths that are tried for a neck of equal cost."""

COST_TOLERANCE = 0.05
"""Share by which the costs of exits may differ and count as equal."""


@dataclass(frozen=True, slots=True)
class ExitCost:
    """One exit's cost: of an image that leaves there with one head run.

    Its parameters are those of a model that ends there.
    """

    backbone_macs: int
    neck_macs: int
    head_macs: int
    parameters: int
    """Number of trainable values, normalisation scales and shifts included."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates from the image to the raw outputs."""
        return self.backbone_macs + self.neck_macs + self.head_macs


def count_conv_macs(model: nn.Module, run: Callable[[], Any]) -> int:
    """Return the multiply-accumulates of every convolution of ``model`` that ``run`` executes."""
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
    """Return the cost of every exit.

    It is computed on the meta device: shapes only.
    """
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
    """Return the detector with another built-in neck at which its exits cost what they did.

    The neck is as wide as makes that so: of all even widths it has the one whose exits'
    multiply-accumulates differ least, by the largest share over exits. Raises ValueError if that is
    more than COST_TOLERANCE.
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
    """Return the number of trainable values, normalisation scales and shifts included."""
    return sum(parameter.numel() for parameter in model.parameters())
