"""The GPU path of the torch runner on a CPU: everything of it but CUDA itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from serving.runners.torch.cuda_graphs import CudaGraphMode
from serving.runners.torch.runner import TorchRunner

POISON = 0x7F


class FakeDevice:
    """A ``Device`` whose memory is the host's, and whose graphs do what was captured, when they are
    replayed, to the tensors that were captured. Host memory is poisoned until it is written."""

    def __init__(self) -> None:
        self.captures = 0
        self.pending = False
        """Whether work was submitted and nobody has waited for it."""
        self._submitting = False

    @contextmanager
    def stream(self) -> Iterator[None]:
        self._submitting = self.pending = True
        yield
        self._submitting = False

    def device_block(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8)

    def host_block(self, size: int) -> torch.Tensor:
        return torch.full((size,), POISON, dtype=torch.uint8)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1

        def replay() -> None:
            assert self._submitting, "a graph runs on the current stream"
            work()

        return replay

    def synchronize(self) -> None:
        self.pending = False


class CapturedRunner(TorchRunner):
    """``TorchRunner`` as it is on a GPU, over ``FakeDevice``."""

    device: FakeDevice

    def _open_mode(self, programs, device):
        self.device = FakeDevice()
        return CudaGraphMode(programs, self._image_shape, self.device)

    def load(self, images):
        return self._waited(super().load(images))

    def run(self, segment, batch):
        return self._waited(super().run(segment, batch))

    def select(self, batch, rows):
        return self._waited(super().select(batch, rows))

    def merge(self, batches):
        return self._waited(super().merge(batches))

    def _waited(self, batch):
        assert not self.device.pending, "the work was not waited for"
        return batch
