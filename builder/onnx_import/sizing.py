"""The input of a detector, and its graph at one input size for any number of images.

Files are exported for one image or for any number of them, at one size or at any. What comes out
here has one size. Whether it takes several images is for a trial to say: a graph that was traced
for one image may have the number one anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper, shape_inference

from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.first_image import with_all_images

CHANNELS = 3
MAX_SIDE = 4096
"""Largest side of an input, in pixels; what a larger one takes is no matter of milliseconds."""
MAX_ELEMENTS = 2**29
"""Most elements of a tensor between two operators, for one image."""

BATCH = "batch"
"""Name of the dimension of images."""

TYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.UINT8: np.uint8,
}
"""Types that an image may be taken in."""

AUXILIARY: Mapping[str, Callable[[int, int], Any]] = {
    "orig_target_sizes": lambda height, width: [[width, height]],
    "orig_image_size": lambda height, width: [[width, height]],
    "target_sizes": lambda height, width: [[width, height]],
    "image_size": lambda height, width: [[width, height]],
    "im_shape": lambda height, width: [[height, width]],
    "image_shape": lambda height, width: [[height, width]],
    "scale_factor": lambda height, width: [[1, 1]],
    "pixel_mask": lambda height, width: np.ones((1, height, width)),
}
"""Inputs beside the image, by name, and what goes in for one of (height, width). By the size of the
original image boxes are multiplied: that of the network's own input goes in. D-FINE and RT-DETR
have the first, PaddleDetection has ``im_shape`` and ``scale_factor``, Transformers a mask of what
is no padding."""

Size = tuple[int, int]
"""An input size, (height, width) in pixels."""


@dataclass(frozen=True)
class ImageInput:
    """How a detector takes an image."""

    name: str
    element_type: int
    """A key of ``TYPES``."""
    channels_last: bool
    has_batch: bool
    """Whether there is an axis for images; without one it takes a single image."""
    height: int | None
    """None: any."""
    width: int | None

    def __str__(self) -> str:
        side = tuple("any" if x is None else str(x) for x in (self.height, self.width))
        dims = (*side, "3") if self.channels_last else ("3", *side)
        return f"{self.name} {np.dtype(TYPES[self.element_type]).name} [{', '.join(dims)}]"


def find_image_input(model: onnx.ModelProto) -> ImageInput:
    """Return the input that takes the image.

    Raises ForeignModelError unless there is one, and nothing else to be given but a size.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    ports = [port for port in model.graph.input if port.name not in weights]
    described = ", ".join(map(describe_port, ports)) or "none"
    images = [port for port in ports if port.name not in AUXILIARY]
    if len(images) != 1:
        raise ForeignModelError(f"it should have one input, for images; its inputs are {described}")
    (port,) = images
    tensor = port.type.tensor_type
    if tensor.elem_type not in TYPES:
        raise ForeignModelError(f"images are taken as float, half or uint8, not as {described}")
    dims = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    has_batch = len(dims) == 4
    sides = dims[-3:]
    last = len(dims) in (3, 4) and sides[2] == CHANNELS and sides[0] != CHANNELS
    channels = sides[2 if last else 0] if len(dims) in (3, 4) else 0
    if channels not in (CHANNELS, None):
        raise ForeignModelError(
            f"an image is [B, 3, H, W] or [B, H, W, 3]; the input is {described}"
        )
    if has_batch and (dims[0] or 1) > 1:
        raise ForeignModelError(
            f"it was exported for {dims[0]} images at a time ({described}): export it for one, or "
            "for any number"
        )
    height, width = sides[:2] if last else sides[1:]
    return ImageInput(port.name, tensor.elem_type, last, has_batch, height, width)


def describe_port(port: onnx.ValueInfoProto) -> str:
    """Return name, type and shape of an input or output, as people write them."""
    tensor = port.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type).lower()
    if not tensor.HasField("shape"):
        return f"{port.name} {kind} of unknown shape"
    dims = (str(d.dim_value) if d.dim_value > 0 else d.dim_param or "?" for d in tensor.shape.dim)
    return f"{port.name} {kind} [{', '.join(dims)}]"


def sizes_of(
    found: ImageInput, asked: tuple[Size, ...], usual: tuple[Size, ...] = ()
) -> tuple[Size, ...]:
    """Return the input sizes that a file is to be imported at; ``usual`` if it may be any.

    Raises ForeignModelError where none is known, or it has another.
    """
    fixed = found.height, found.width
    if None not in fixed:
        if asked and any(size != fixed for size in asked):
            raise ForeignModelError(
                f"--sizes: it was exported for {fixed[1]}x{fixed[0]} alone; export it once for "
                "each size, or with sides that may be any"
            )
        asked = asked or ((fixed[0] or 0, fixed[1] or 0),)
    asked = asked or usual
    if not asked:
        raise ForeignModelError(
            f"its input is {found}, for images of any size: say which ones with --sizes"
        )
    for height, width in asked:
        if max(height, width) > MAX_SIDE:
            raise ForeignModelError(f"no side is above {MAX_SIDE} pixels: {width}x{height}")
        if found.height not in (None, height) or found.width not in (None, width):
            raise ForeignModelError(f"--sizes: {width}x{height} does not fit its input {found}")
    return asked


def at_size(model: onnx.ModelProto, found: ImageInput, size: Size) -> onnx.ModelProto:
    """Return the model for one image of (height, width), with the shapes that follow from that.

    Its only input is the image: a size that it asks for is a constant. Raises ForeignModelError
    where the shapes contradict each other, or a tensor is too large.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    graph = sized.graph
    height, width = size
    dims = [height, width, CHANNELS] if found.channels_last else [CHANNELS, height, width]
    weights = {tensor.name for tensor in graph.initializer}
    for port in list(graph.input):
        if port.name == found.name:
            _set_shape(port, [1, *dims] if found.has_batch else dims)
            continue
        graph.input.remove(port)
        if port.name not in weights:
            kind = onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
            value = np.array(AUXILIARY[port.name](height, width)).astype(kind)
            if len(port.type.tensor_type.shape.dim) == value.ndim - 1:
                value = value[0]  # it has no axis of images
            graph.initializer.append(numpy_helper.from_array(value, port.name))
    for port in graph.output:
        port.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    try:
        inferred = shape_inference.infer_shapes(sized, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        raise ForeignModelError(
            f"it cannot be run at {width}x{height}: {str(error).strip().splitlines()[-1]}"
        ) from error
    for port in (*inferred.graph.value_info, *inferred.graph.output):
        count = int(np.prod([float(max(d, 1)) for d in shape_of(port) or ()]))
        if count > MAX_ELEMENTS:
            raise ForeignModelError(
                f"at {width}x{height} {describe_port(port)} would have {count} elements, more than "
                f"{MAX_ELEMENTS}"
            )
    return inferred


def shape_of(port: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """Return the shape of a tensor, 0 for an unknown side; None if nothing is known."""
    tensor = port.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(max(0, dim.dim_value) for dim in tensor.shape.dim)


def for_any_batch(model: onnx.ModelProto, guess: bool = False) -> onnx.ModelProto:
    """Return a model that ``at_size`` gave, for any number of images as far as that can be said.

    Where it reshapes to one image, the first dimension is left as it is instead, and where it takes
    the first image, it goes on with all. ``guess`` takes a dimension of unknown size for that of
    images, too.
    """
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    graph = freed.graph
    shapes = {
        port.name: shape_of(port) for port in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    constants = _constants(graph)
    with_all_images(graph, shapes, constants)
    for port in graph.input:
        port.type.tensor_type.shape.dim[0].dim_param = BATCH
    for port in graph.output:
        port.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        before, target = shapes.get(node.input[0]), constants[node.input[1]]
        if target.ndim != 1 or not len(target):
            continue
        changed = target.copy()
        if (target > 0).all():
            changed[0] = -1  # images side by side, or the same as before
        elif target[0] == 1 and (before or (0,))[0] in ((0, 1) if guess else (1,)):
            changed[0] = 0  # as it is
        name = f"{node.output[0]}/any_batch"
        graph.initializer.append(numpy_helper.from_array(changed, name))
        node.input[1] = name
    return freed


def _constants(graph: onnx.GraphProto) -> dict[str, npt.NDArray[np.int64]]:
    """Return the integer constants of a graph that are one number or a list."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            (name,) = node.output
            tensors.update((name, each.t) for each in node.attribute if each.name == "value")
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if tensor.data_type == TensorProto.INT64 and len(tensor.dims) <= 1
    }


def _set_shape(port: onnx.ValueInfoProto, dims: list[int]) -> None:
    shape = port.type.tensor_type.shape
    del shape.dim[:]
    for value in dims:
        shape.dim.add().dim_value = value
