"""The models ``<model>_d1`` .. ``<model>_dN`` on a CPU, each the fused exit of one depth.

Of a model of several input sizes they are ``<model>_300x300_d1`` and so on.

The segments lie with ``<model>_anytime`` in the same repository; nothing is stored twice. On a GPU
the same models are TensorRT plans on Triton's own backend, and this is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from serving.artifacts.model_folders import MODEL_SUFFIX, read_catalog
from serving.core import segment as segments
from serving.core.request import Detections
from serving.models.opening import open_runner
from serving.system.parent import end_with_parent
from serving.triton import wire
from serving.triton_backend.model_config import parameters, runtime_options
from serving.triton_backend.tensors import to_array, to_tensor


class TritonPythonModel:
    """The class that Triton's Python backend looks for; called from one thread."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the runner with one fused segment."""
        end_with_parent()
        options = parameters(args["model_config"])
        depth, size = int(options["depth"]), options.get("size")
        name = args["model_name"].removesuffix(f"_d{depth}")
        if size is not None:  # of several
            name = name.removesuffix(f"_{size}")
        repository = Path(args["model_repository"]).parent
        folder = repository / f"{name}{MODEL_SUFFIX}" / args["model_version"]
        self._segment = segments.fused_exit(depth)
        self._max_detections = read_catalog(folder, size).max_detections
        self._runner = open_runner(folder, runtime_options(options), {self._segment}, size)
        self._max_batch = self._runner.batch_sizes[-1]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response for each request, in order.

        The images of all run in batches together.
        """
        tensors = (pb_utils.get_input_tensor_by_name(r, wire.IMAGES) for r in requests)
        images = [to_array(tensor) for tensor in tensors]  # each (B, H, W, 3) uint8
        found = list(self._detect([image for batch in images for image in batch]))
        responses, start = [], 0
        for batch in images:
            rows = found[start : start + len(batch)]
            responses.append(response(rows, self._max_detections))
            start += len(batch)
        return responses

    def finalize(self) -> None:
        """Free the runner."""
        self._runner.close()

    def _detect(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Detections]:
        """Yield the detections of all images, which run in batches."""
        for start in range(0, len(images), self._max_batch):
            batch = self._runner.load(images[start : start + self._max_batch])
            output = self._runner.run(self._segment, batch)
            yield from self._runner.detections(output)
            self._runner.release(output)
            self._runner.release(batch)


def response(rows: Sequence[Detections], most: int) -> Any:
    """Return the boxes of one request's images, padded to ``most`` rows as a plan's outputs are."""
    size = len(rows)
    boxes = np.zeros((size, most, 4), np.float32)
    scores = np.zeros((size, most), np.float32)
    labels = np.zeros((size, most), np.int32)
    counts = np.array([len(row.scores) for row in rows], np.int32)
    for index, (row, count) in enumerate(zip(rows, counts, strict=True)):
        boxes[index, :count] = row.boxes_xyxy_input
        scores[index, :count] = row.scores
        labels[index, :count] = row.labels
    return pb_utils.InferenceResponse(
        [
            to_tensor(wire.BOXES, boxes),
            to_tensor(wire.SCORES, scores),
            to_tensor(wire.LABELS, labels),
            to_tensor(wire.COUNTS, counts.reshape(size, 1)),
        ]
    )
