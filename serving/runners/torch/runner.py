"""The runner on torch: what it is asked for is checked here, and done by an execution mode."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from serving.artifacts.torch_programs import multiplies_bf16
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.ports import Image, Pause, no_pause
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.runners.checks import check_images, check_segment
from serving.runners.gathering import GatheringRunner
from serving.runners.rows import copied_rows
from serving.runners.torch.cuda_graphs import Cuda, CudaGraphMode
from serving.runners.torch.modes import Batch, EagerMode, ExecutionMode, Program
from serving.runners.torch.programs import load_programs

PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
"""Types that convolutions may run in, by name."""


class TorchRunner(GatheringRunner[Batch]):
    """A ``SegmentRunner`` over the programs in ``folder``.

    ``num_threads`` None: all cores; a number holds for the whole process, as torch has it.
    ``device``: ``cpu`` or ``cuda``; None: a GPU if there is one. ``precision`` of convolutions, a
    key of ``PRECISIONS``; None: ``f16`` on a GPU; on a CPU ``bf16`` where it is native and ``f32``
    elsewhere. ``wanted``: the segments to load; None: all. Raises OSError or ValueError when the
    programs are missing or of another model.
    """

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        num_threads: int | None,
        device: str | None = None,
        precision: str | None = None,
        wanted: Collection[Segment] | None = None,
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        chosen = precision or _fast_precision(target)
        if chosen not in PRECISIONS:
            raise ValueError(f"precision {chosen!r} is none of {', '.join(PRECISIONS)}")
        self.runtime = f"torch {torch.__version__}"
        self.segments = frozenset(
            segments.every_segment(catalog.num_exits) if wanted is None else wanted
        )
        self._image_shape = (catalog.input_height, catalog.input_width, 3)
        parts = sorted({part for segment in self.segments for part in segment.parts})
        unit = load_programs(folder, catalog, parts, target, PRECISIONS[chosen])
        programs = {
            segment: _chain([unit[part] for part in segment.parts]) for segment in self.segments
        }
        self._mode = self._open_mode(programs, target)
        self.batch_sizes = self._mode.batch_sizes
        self._closed = False

    def load(self, images: Sequence[Image]) -> Batch:
        """Return a batch of images, copied."""
        self._check_open()
        check_images(images, self._image_shape, self.batch_sizes[-1])
        with torch.inference_mode():
            return self._mode.load(images)

    def run(self, segment: Segment, batch: Batch) -> Batch:
        """Run one synchronous inference, without the interpreter lock while the device computes."""
        self._check_open()
        check_segment(segment, batch.depth, self.segments)
        with torch.inference_mode():
            return self._mode.run(segment, batch)

    def release(self, batch: Batch) -> None:
        """Give the batch back to its pool, if it came from one."""
        self._mode.release(batch)

    def detections(self, batch: Batch) -> list[Detections]:
        """Return copies, so the batch can be released."""
        self._check_open()
        boxes, scores, labels, counts = self._mode.arrays(batch)
        return copied_rows(boxes, scores, labels, counts[: batch.size])

    def abort(self) -> None:
        """Do nothing: a call into the runtime cannot be ended."""

    def close(self, pause: Pause = no_pause, /) -> None:
        """Free programs, graphs and buffers."""
        self._closed = True
        pause()
        self._mode.close()

    def _open_mode(
        self, programs: Mapping[Segment, Program], device: torch.device
    ) -> ExecutionMode:
        """Return how the programs run on ``device``."""
        if device.type == "cuda":
            return CudaGraphMode(programs, self._image_shape, Cuda(device))
        return EagerMode(programs)

    def _gather(self, picked: Sequence[tuple[Batch, int]]) -> Batch:
        with torch.inference_mode():
            return self._mode.gather(picked)


def _fast_precision(device: torch.device) -> str:
    """Return the precision that convolutions are fastest in on ``device``."""
    if device.type == "cuda":
        return "f16"  # which the kernels are stored in
    return "bf16" if multiplies_bf16(torch.cpu.get_capabilities()) else "f32"


def _chain(programs: Sequence[Program]) -> Program:
    """Return a program that runs these one after the other."""

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        for program in programs:
            tensors = program(*tensors)
        return tensors

    return run
