"""Which layout a detector's outputs have, and why: by their shapes, then by what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import numpy.typing as npt

from builder.onnx_import.classes import ClassNumbers
from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.layouts import BOXES, CLASSES, LABELS, LAYOUTS, SCORES, Layout, Output
from builder.onnx_import.postprocessing import grid_cells
from builder.onnx_import.sizing import Size

AUTO = "auto"
Array = npt.NDArray[np.float32]

SHARE_REACH = 2.0
"""Largest coordinate of boxes that are taken for shares, of which the whole image is 1."""
SCORE_SLACK = 1e-3
"""Amount by which rounding may take a probability out of 0..1."""


@dataclass(frozen=True)
class Reading:
    """A detector's outputs, read by a layout."""

    layout: Layout
    numbers: ClassNumbers
    outputs: tuple[str, ...]
    """Names of the outputs, in the order of the layout's."""
    num_rows: int

    def parts(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return the parts of the outputs of images: (B, N, columns), or (B, N) of single ones."""
        parts: dict[str, Array] = {}
        for name, output in zip(self.outputs, self.layout.outputs, strict=True):
            table = values[name].swapaxes(1, 2) if output.axis == 1 else values[name]
            first = 0
            for part, count in output.columns:
                wide = len(self.numbers.names) + self.layout.last_is_background
                width = wide if count == CLASSES else count
                single = self.layout.is_labelled and part in (SCORES, LABELS)
                columns = table[..., first : first + width] if width else table[..., None]
                parts[part] = columns[..., 0] if single else columns
                first += width
        return parts


def recognise(
    name: str,
    changes: Mapping[str, str],
    possible: Sequence[ClassNumbers],
    values: Mapping[str, Array],
    size: Size,
) -> tuple[Reading, str]:
    """Return how to read these outputs, and why, as a sentence.

    ``values`` are those of the outputs for a few images, (B, ...), in the order of the file;
    ``name`` is a layout's or ``auto``; ``changes`` override fields of it. Raises ForeignModelError
    where nothing fits, or several do.
    """
    chosen = LAYOUTS.values() if name == AUTO else (LAYOUTS[name],)
    layouts = [layout.changed(changes) for layout in chosen]
    fitting: dict[str, Reading] = {}
    for layout in layouts:
        for numbers in possible:
            if layout.name not in fitting:
                found = _fit(layout, numbers, values, size)
                fitting.update({layout.name: found} if found else {})
    shapes = describe_values(values)
    if not fitting:
        of = "/".join(str(len(numbers.names)) for numbers in possible)
        wanted = "; ".join(map(str, layouts))
        raise ForeignModelError(
            f"its outputs {shapes} are those of no detector of {of} classes that is known here: "
            f"{wanted}"
        )
    if name != AUTO:
        return fitting[name], f"the outputs {shapes} are as {name} has them"
    objections = {key: _objection(reading, values, size) for key, reading in fitting.items()}
    left = [key for key, objection in objections.items() if objection is None]
    against = "; ".join(f"not {key}: {why}" for key, why in objections.items() if why)
    if len(left) != 1:
        raise ForeignModelError(
            f"its outputs {shapes} may be those of {' or '.join(left or fitting)}"
            f"{f' ({against})' if against else ''}: say which with --layout"
        )
    reading, units = _with_units(fitting[left[0]], values, "units" in changes)
    layout = reading.layout
    count = len(reading.numbers.names)
    why = f"the outputs {shapes}, for {count} numbers of classes, are as in {layout.about}"
    return reading, "; ".join(filter(None, (why, against, units)))


def describe_values(values: Mapping[str, Array]) -> str:
    """Return names and shapes of outputs, for one image."""
    return ", ".join(
        f"{name} [{', '.join(map(str, (1, *value.shape[1:])))}]" for name, value in values.items()
    )


def _fit(
    layout: Layout, numbers: ClassNumbers, values: Mapping[str, Array], size: Size
) -> Reading | None:
    """Return how a layout reads these outputs, if their shapes are its."""
    if len(values) != len(layout.outputs):
        return None
    wide = len(numbers.names) + layout.last_is_background
    best: list[tuple[int, tuple[str, ...], int]] = []
    for names in permutations(values):
        rows = _rows(layout.outputs, [values[name].shape for name in names], wide)
        if rows is not None:
            hints = sum(
                any(hint in name.lower() for hint in output.names)
                for name, output in zip(names, layout.outputs, strict=True)
            )
            best.append((hints, names, rows))
    if not best:
        return None
    # Of equals the first, which is the one in the file's own order.
    _, names, rows = max(best, key=lambda each: each[0])
    if layout.strides and rows != _cells(layout, size):
        return None
    return Reading(layout, numbers, names, rows)


def _rows(
    outputs: Sequence[Output], shapes: Sequence[tuple[int, ...]], num_classes: int
) -> int | None:
    """Return the number of rows that outputs of these shapes have, if that is one number."""
    found = set()
    for output, shape in zip(outputs, shapes, strict=True):
        rows = shape[3 - output.axis] if len(shape) == 3 else shape[-1]
        if output.shape(num_classes, rows)[1:] != shape[1:] or not rows:
            return None
        found.add(rows)
    return found.pop() if len(found) == 1 else None


def _objection(reading: Reading, values: Mapping[str, Array], size: Size) -> str | None:
    """Return what in the outputs speaks against a layout that their shapes fit; None: nothing."""
    return next(_objections(reading, values, size), None)


def _objections(reading: Reading, values: Mapping[str, Array], size: Size) -> Iterator[str]:
    layout, parts, rows = reading.layout, reading.parts(values), reading.num_rows
    scores, boxes = parts[SCORES], parts[BOXES]
    low, high = float(scores.min()), float(scores.max())
    probable = low >= -SCORE_SLACK and high <= 1 + SCORE_SLACK
    if layout.activation == "none" and not probable:
        yield f"scores from {low:.3g} to {high:.3g} are no probabilities"
    if layout.activation != "none" and probable:
        yield f"scores from {low:.3g} to {high:.3g} are probabilities already"
    if LABELS in parts:
        labels = parts[LABELS]
        if not np.array_equal(labels, np.round(labels)) or labels.min() < 0:
            yield "labels are no whole numbers"
        elif labels.max() >= len(reading.numbers.names):
            yield f"there is a label {labels.max():.0f}"
    reach = float(np.abs(boxes[..., :2]).max())
    if layout.strides and reach > max(layout.strides):
        yield f"boxes up to {reach:.3g} are no offsets within cells"
    twin = next((x for x in LAYOUTS.values() if x.strides and x.outputs == layout.outputs), None)
    if twin and not layout.strides and reach <= max(twin.strides) and _cells(twin, size) == rows:
        yield f"boxes up to {reach:.3g} with a row for each cell are offsets"


def _cells(layout: Layout, size: Size) -> int:
    """Return the number of cells of a layout's grids."""
    return sum(height * width for height, width, _ in grid_cells(size, layout.strides))


def _with_units(reading: Reading, values: Mapping[str, Array], stated: bool) -> tuple[Reading, str]:
    """Return the reading with the units that its boxes seem to be in, and why they are others."""
    layout = reading.layout
    reach = float(np.abs(reading.parts(values)[BOXES]).max())
    if stated or layout.strides or layout.units == "shares" or reach > SHARE_REACH:
        return reading, ""
    changed = replace(layout, units="shares")
    return replace(reading, layout=changed), f"boxes up to {reach:.3g} are shares of the image"
