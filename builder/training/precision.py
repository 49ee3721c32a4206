"""Which arithmetic a training uses on a device."""

from __future__ import annotations

import torch

from builder.config.recipe import TrainConfig
from serving.artifacts.torch_programs import multiplies_bf16


def lowers(recipe: TrainConfig, device: torch.device) -> bool:
    """Return whether convolutions run in bfloat16: if the recipe has it so and no CPU emulates."""
    return recipe.autocast and has_bf16(device)


def has_bf16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 itself."""
    return device.type != "cpu" or multiplies_bf16(torch.cpu.get_capabilities())
