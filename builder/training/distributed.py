"""Processes that train one model together, as torchrun starts them.

Each computes its part of every batch; gradients are averaged, so that all hold the same weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from serving.core.command_errors import InvalidArgument

EXCHANGE_TIMEOUT = timedelta(hours=3)
"""Timeout of an exchange between processes, which wait while the first one validates."""


class DeviceError(InvalidArgument):
    """Error of a device that this machine does not have."""


BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's place among those that train one model together."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over all processes; ``values`` is overwritten."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def wrap(self, model: nn.Module, *, is_partial: bool) -> nn.Module:
        """Return a module that runs ``model`` and averages gradients in its backward pass.

        ``is_partial``: a step may leave some parameters without gradient, the same ones in every
        process.
        """
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=is_partial)


@contextmanager
def joined(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that torchrun's environment names, and give them with this one's device.

    Without torchrun, this process is alone and its device is ``device``. Raises DeviceError.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    own = device_called(device)
    if world == "1":
        yield Processes(), own
        return
    try:
        count = int(world)
        if own.type == "cuda":
            own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(own)
        dist.init_process_group(BACKENDS[own.type], timeout=EXCHANGE_TIMEOUT)
    except (KeyError, ValueError) as error:
        raise DeviceError(
            f"the environment has WORLD_SIZE={world}, and not all else that torchrun sets: {error}"
        ) from error
    try:
        yield Processes(dist.get_rank(), count), own
    finally:
        dist.destroy_process_group()


def device_called(name: str) -> torch.device:
    """Return the device of this machine called ``name``. Raises DeviceError if it has none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in BACKENDS:
        raise DeviceError(f"the device is one of {', '.join(BACKENDS)}, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"torch finds no {name} here, but {torch.cuda.device_count()} GPUs")
    return device
