"""Layers of neck and head: the 3x3 convolution in its two kinds, activations, DropBlock."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROP_BLOCK_SIZE = 3
"""Cells along the side of a dropped block (Ghiasi et al., NAS-FPN, 2019)."""


def dense(in_channels: int, out_channels: int) -> nn.Module:
    """Return a full 3x3 convolution with bias that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def separable(in_channels: int, out_channels: int) -> nn.Module:
    """Return a 3x3 depthwise convolution, then a 1x1 with bias."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1),
    )


CONVS: dict[str, Callable[[int, int], nn.Module]] = {"dense": dense, "separable": separable}

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "swish": F.silu}


class DropBlock(nn.Module):
    """A layer that drops square blocks of a feature map in training.

    This is DropBlock (Ghiasi et al., 2018).

    Every channel of every image loses blocks of its own, which lie wholly inside the map; what is
    left is scaled up so that the map keeps its mean. ``rate`` is the share of cells to drop as the
    blocks would if they did not overlap; ``set_drop_rate`` sets it.
    """

    def __init__(self, size: int = DROP_BLOCK_SIZE) -> None:
        super().__init__()
        self._size = size
        self.rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) ``x`` with blocks dropped.

        Returns ``x`` itself in inference and at rate 0.
        """
        if not self.training or self.rate == 0:
            return x
        height, width = x.shape[-2:]
        block = min(self._size, height), min(self._size, width)
        corners = height - block[0] + 1, width - block[1] + 1  # where a block's corner can be
        seed_rate = self.rate * height * width / (block[0] * block[1] * corners[0] * corners[1])
        seeds = torch.rand(*x.shape[:2], *corners, device=x.device) < seed_rate
        around = (block[1] - 1, block[1] - 1, block[0] - 1, block[0] - 1)
        dropped = F.max_pool2d(F.pad(seeds.to(x.dtype), around), block, stride=1)  # (B, C, H, W)
        kept = 1 - dropped
        # In float32: in half precision a sum of so many ones is no longer exact.
        share = kept.float().mean().clamp(min=1 / kept.numel())
        return x * kept / share.to(x.dtype)


def set_drop_rate(model: nn.Module, rate: float) -> None:
    """Set the rate of every ``DropBlock`` in ``model``."""
    for module in model.modules():
        if isinstance(module, DropBlock):
            module.rate = rate


def drop_rate_at(step: int, num_steps: int, final_rate: float) -> float:
    """Return the rate of DropBlock in a step, which rises linearly from 0 to ``final_rate``.

    Steps are 0..num_steps - 1 (scheduled DropBlock).
    """
    return final_rate * step / max(1, num_steps - 1)
