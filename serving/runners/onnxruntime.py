"""Segments on ONNX Runtime's CPU provider: the portable alternative to OpenVINO.

Everything is float32. Features stay where the runtime allocated them; a batch is a list of arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from serving.artifacts.onnx_composition import compose
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.ports import Image, Pause, no_pause
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.runners.checks import check_images, check_segment
from serving.runners.gathering import GatheringRunner
from serving.runners.rows import contiguous_rows, copied_rows, sizes_up_to

BATCH_SIZES = (1, 4)
"""Batch sizes that are warmed up and planned with; shapes are dynamic."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch as arrays whose first axis is the batch."""

    depth: int
    """Depth of the features, or of the exit of detections; ``segments.IMAGE`` for images."""
    features: bool
    """True if they are features: neither images nor detections."""
    arrays: tuple[npt.NDArray[Any], ...]

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.arrays[0])


class OnnxRuntimeRunner(GatheringRunner[Batch]):
    """A ``SegmentRunner`` over the ONNX files in ``folder``.

    ``num_threads`` None: all cores. ``wanted``: the segments to load; None: all.
    """

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        num_threads: int | None,
        wanted: Collection[Segment] | None = None,
    ) -> None:
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.batch_sizes = sizes_up_to(BATCH_SIZES, catalog.max_batch)
        self._image_shape = (catalog.input_height, catalog.input_width, 3)
        self.segments = frozenset(
            segments.every_segment(catalog.num_exits) if wanted is None else wanted
        )
        unit = {
            part: onnx.load(folder / catalog.segment_file(part.name))
            for part in sorted({part for segment in self.segments for part in segment.parts})
        }
        models = {
            segment: compose([unit[part] for part in segment.parts]) for segment in self.segments
        }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0
        self._sessions = {
            segment: onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            for segment, model in models.items()
        }
        self._input_names = {
            segment: [port.name for port in session.get_inputs()]
            for segment, session in self._sessions.items()
        }
        self._closed = False

    def load(self, images: Sequence[Image]) -> Batch:
        """Return a batch of images, copied."""
        self._check_open()
        check_images(images, self._image_shape, self.batch_sizes[-1])
        return Batch(segments.IMAGE, False, (np.stack(images),))

    def run(self, segment: Segment, batch: Batch) -> Batch:
        """Run one synchronous inference, without the interpreter lock."""
        self._check_open()
        check_segment(segment, batch.depth, self.segments)
        feed = dict(zip(self._input_names[segment], batch.arrays, strict=True))
        outputs = tuple(self._sessions[segment].run(None, feed))
        return Batch(segment.stop, not segment.head, outputs)

    def release(self, batch: Batch) -> None:
        """Do nothing: memory goes with the last reference."""

    def detections(self, batch: Batch) -> list[Detections]:
        """Return copies, so the batch can be released."""
        self._check_open()
        return copied_rows(*batch.arrays)

    def abort(self) -> None:
        """Do nothing: a call into the runtime cannot be ended."""

    def close(self, pause: Pause = no_pause, /) -> None:
        """Free the sessions, one after the other."""
        self._closed = True
        while self._sessions:
            pause()
            self._sessions.popitem()

    def _gather(self, picked: Sequence[tuple[Batch, int]]) -> Batch:
        """Return a copy of these rows of features."""
        parts = [
            [array[row : row + num_rows] for array in batch.arrays]
            for batch, row, _, num_rows in contiguous_rows(picked)
        ]
        return Batch(picked[0][0].depth, True, tuple(map(np.concatenate, zip(*parts, strict=True))))
