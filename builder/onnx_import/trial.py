"""A trial run of a file at one input size: what its outputs, and what crosses boundaries, are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from builder.onnx_import.boundary import PADDED_ROWS, Tensor
from builder.onnx_import.branches import with_inner
from builder.onnx_import.checking import Array, Image, open_session, pixels_for, run_session
from builder.onnx_import.cutting import Names
from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.layouts import Preprocessing
from builder.onnx_import.sizing import ImageInput, shape_of

VARYING = ("Compress", "NonMaxSuppression", "NonZero", "Unique")
"""Operators that give another number of rows for each image."""


class Trial:
    """A file for one image, as it is, with more outputs."""

    def __init__(
        self,
        model: onnx.ModelProto,
        image: ImageInput,
        exits: Sequence[Names],
        live: Sequence[Names],
    ) -> None:
        """Open it with the outputs of ``exits`` and what is ``live`` at boundaries.

        Raises ForeignModelError where it cannot be run, or cut there.
        """
        self._image = image
        self._outputs = {name for names in exits for name in names}
        names = list(dict.fromkeys(name for some in (*exits, *live) for name in some))
        self._names = [name for name in names if name != image.name]
        self._crossing = names
        self._session = open_session(_with_outputs(model, self._names))
        self._shapes = _inferred_shapes(model)
        self._varies = any(node.op_type in VARYING for node in with_inner(model.graph.node))
        self.tensors: dict[str, Tensor] = {}
        """What crosses a boundary, by name; known once it has run."""
        self.has_batch = True
        """Whether outputs have an axis of images; known then."""

    def together(self, images: Sequence[Image], wanted: Preprocessing) -> dict[str, Array]:
        """Return the outputs of exits for some images, (B, ...) float32."""
        found = [self._run(image, wanted) for image in images]
        # A table has rows and columns; a third axis is that of images. Masks of rows have four.
        self.has_batch = any(found[0][name].ndim == 3 for name in self._outputs)
        self.tensors = {
            name: self._described(name, [x[name] for x in found]) for name in self._crossing
        }
        return {
            name: np.concatenate([self._batched(name, x[name]) for x in found])
            for name in self._names
            if name in self._outputs
        }

    def alone(self, image: Image, wanted: Preprocessing) -> dict[str, Array]:
        """Return the outputs of exits for one image, (1, ...) float32."""
        found = self._run(image, wanted)
        return {name: self._batched(name, found[name]) for name in self._outputs}

    def _run(self, image: Image, wanted: Preprocessing) -> dict[str, Array]:
        """Return what the file gives for one image, as it gives it."""
        pixels = pixels_for(image, self._image, wanted)
        arrays = run_session(self._session, {self._image.name: pixels})
        found = dict(zip(self._names, arrays, strict=True))
        return {self._image.name: pixels, **{name: np.atleast_1d(x) for name, x in found.items()}}

    def _described(self, name: str, found: Sequence[Array]) -> Tensor:
        """Return what crosses a boundary as ``name``, of which ``found`` are those of images."""
        first = found[0]
        has_batch = self.has_batch
        if name not in self._outputs or has_batch:
            has_batch = first.shape[:1] == (1,)
        shape = first.shape[1:] if has_batch else first.shape
        inferred = self._shapes.get(name)
        rows_vary = self._varies and not (inferred and all(inferred))
        rows_vary = rows_vary or any(each.shape != first.shape for each in found)
        if name not in self._outputs and (rows_vary or not has_batch):
            raise ForeignModelError(
                f"--exits: {name!r} {list(first.shape)} is at a boundary without an axis of images"
            )
        if rows_vary:
            shape = (PADDED_ROWS, *shape[1:])
        kind = int(helper.np_dtype_to_tensor_dtype(first.dtype))
        return Tensor(shape, kind, has_batch, rows_vary)

    def _batched(self, name: str, found: Array) -> Array:
        """Return an output for one image with an axis of images, and as many rows as there are."""
        tensor = self.tensors[name]
        table = found.astype(np.float32)
        if tensor.rows_vary:
            rows = table[0] if tensor.has_batch else table
            padding = np.zeros((tensor.shape[0], *rows.shape[1:]), np.float32)
            table = np.concatenate([rows, padding])[: tensor.shape[0]]
        elif table.size != math.prod(tensor.shape):
            raise ForeignModelError(
                f"its output {name} is {list(found.shape)} for one image and {list(tensor.shape)} "
                "for another"
            )
        return table.reshape(1, *tensor.shape)


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a model with these outputs, whatever they were before."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    known = {port.name: port for port in (*changed.graph.value_info, *changed.graph.output)}
    del changed.graph.output[:]
    for name in names:
        port = known.get(name) or helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
        changed.graph.output.append(port)
    return changed


def _inferred_shapes(model: onnx.ModelProto) -> Mapping[str, tuple[int, ...] | None]:
    return {port.name: shape_of(port) for port in (*model.graph.value_info, *model.graph.output)}
