"""Which layout a detector's outputs have, and why: by their shapes and names, then by what is in
them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from builder.onnx_import.classes import ClassNumbers, numbered_from_one
from builder.onnx_import.errors import ForeignModelError
from builder.onnx_import.layouts import (
    BOXES,
    CLASSES,
    LABELS,
    LAYOUTS,
    OBJECTNESS,
    SCORES,
    Layout,
    Output,
)
from builder.onnx_import.postprocessing import grid_cells
from builder.onnx_import.sizing import Size

AUTO = "auto"
Array = npt.NDArray[np.float32]

SHARE_REACH = 2.0
"""Largest coordinate of boxes that are taken for shares, of which the whole image is 1."""
SCORE_SLACK = 1e-3
"""Amount by which rounding may take a probability out of 0..1."""
CORNERS = ("xyxy", "yxyx")
"""Conventions of boxes in which no number of the second half is below that of the first."""
MAX_INVERTED = 0.01
"""Share of boxes that may be otherwise, as rounding and weights before training have it."""
COLUMNS_BESIDE_CLASSES = (0, 1, 4, 5)
"""Numbers of columns that outputs of layouts have beside those of classes."""


@dataclass(frozen=True)
class Reading:
    """A detector's outputs, read by a layout."""

    layout: Layout
    numbers: ClassNumbers
    outputs: tuple[str, ...]
    """Names of the outputs that are read, in the order of the layout's."""
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
    has_batch: bool = True,
) -> tuple[Reading, str]:
    """Return how to read these outputs, and why, as a sentence.

    ``values`` are those of the outputs for a few images, (B, ...), in the order of the file;
    ``has_batch`` says whether the file gives them with an axis of images. ``name`` is a layout's or
    ``auto``; ``changes`` override fields of it. Raises ForeignModelError where nothing fits, or
    several do.
    """
    chosen = LAYOUTS.values() if name == AUTO else (LAYOUTS[name],)
    layouts = [layout.changed(changes) for layout in chosen]
    readings = [
        _read(layout, possible, values, size)
        for layout in layouts
        if name != AUTO or not (layout.for_one_image and has_batch)
    ]
    fitting = {reading.layout.name: reading for reading in readings if reading}
    if name == AUTO:
        fitting = {key: x for key, x in fitting.items() if not x.layout.by_name or _is_named(x)}
    shapes = describe_values(values)
    if not fitting:
        of = "/".join(str(len(numbers.names)) for numbers in possible)
        wanted = "; ".join(map(str, layouts))
        raise ForeignModelError(
            f"its outputs {shapes} are those of no detector of {of} classes that is known here"
            f"{_unnamed(layouts, possible, values) or _fitting_otherwise(layouts, values, size)}: "
            f"{wanted}"
        )
    if name != AUTO:
        reading = fitting[name]
        return reading, f"the outputs {_described(reading, values)} are as {name} has them"
    objections = {
        key: next(_objections(reading, values, size, changes), None)
        for key, reading in fitting.items()
    }
    left = [key for key, objection in objections.items() if objection is None]
    special = [key for key in left if LAYOUTS[key].by_name or LAYOUTS[key].for_one_image]
    left = special or left
    most = max((len(fitting[key].outputs) for key in left), default=0)
    left = [key for key in left if len(fitting[key].outputs) == most]
    against = "; ".join(f"not {key}: {why}" for key, why in objections.items() if why)
    if not left:
        raise ForeignModelError(
            f"its outputs {shapes} have the shapes of {', '.join(fitting)}, but seem to be "
            f"something else ({against}): if they are not, say which with --layout"
        )
    if len(left) > 1:
        raise ForeignModelError(
            f"its outputs {shapes} may be those of {' or '.join(left)}"
            f"{f' ({against})' if against else ''}: say which with --layout"
        )
    reading, units = _with_units(fitting[left[0]], values, "units" in changes)
    why = f"the outputs {_described(reading, values)} are as in {reading.layout.about}"
    return reading, "; ".join(filter(None, (why, against, units)))


def describe_values(values: Mapping[str, Array]) -> str:
    """Return names and shapes of outputs, for one image."""
    return ", ".join(
        f"{name} [{', '.join(map(str, (1, *value.shape[1:])))}]" for name, value in values.items()
    )


def _described(reading: Reading, values: Mapping[str, Array]) -> str:
    """Return what is read of outputs, and what their numbers of classes are taken for."""
    shapes = describe_values({name: values[name] for name in reading.outputs})
    others = len(values) - len(reading.outputs)
    numbers = reading.numbers
    return (
        f"{shapes}{f' of {len(values)}' if others else ''}, for {len(numbers.names)} numbers of "
        f"classes, where {numbers.kept[0]} is {numbers.classes[0]},"
    )


# -- shapes and names -----------------------------------------------------------------------------


def _read(
    layout: Layout, possible: Sequence[ClassNumbers], values: Mapping[str, Array], size: Size
) -> Reading | None:
    """Return how a layout reads these outputs, if their shapes are its."""
    if layout.from_one:
        possible = numbered_from_one(possible)
    found = [_fit(layout, numbers, values, size) for numbers in possible]
    readings = [reading for reading in found if reading]
    if layout.is_labelled:
        # Shapes do not say how classes are numbered, but labels that there are not do.
        readings.sort(key=lambda reading: _has_unknown_labels(reading, values))
    return readings[0] if readings else None


def _has_unknown_labels(reading: Reading, values: Mapping[str, Array]) -> bool:
    return bool(reading.parts(values)[LABELS].max() >= len(reading.numbers.names))


def _fit(
    layout: Layout, numbers: ClassNumbers, values: Mapping[str, Array], size: Size
) -> Reading | None:
    """Return how a layout reads these outputs with these classes, if their shapes are its.

    Of more outputs than it has, those are meant that are called as its are or, of a single one, the
    only one of its shape.
    """
    fits = _fits(layout, numbers, values)
    if len(values) > len(layout.outputs) and (len(fits) > 1 or len(layout.outputs) > 1):
        fits = [reading for reading in fits if _is_named(reading)]
    if not fits:
        return None
    # Of equals the first, which is the one in the file's own order.
    best = max(fits, key=_num_named)
    if layout.grids and best.num_rows != _cells(layout, size):
        return None
    return best


def _fits(layout: Layout, numbers: ClassNumbers, values: Mapping[str, Array]) -> list[Reading]:
    """Return all ways in which a layout reads outputs of these shapes with these classes."""
    wide = len(numbers.names) + layout.last_is_background
    rows = [
        {name: count for name, x in values.items() if (count := _rows(output, x.shape, wide))}
        for output in layout.outputs
    ]
    return [
        Reading(layout, numbers, names, rows[0][names[0]])
        for names in product(*rows)
        if len(set(names)) == len(names)
        and len({counts[name] for counts, name in zip(rows, names, strict=True)}) == 1
    ]


def _rows(output: Output, shape: tuple[int, ...], num_classes: int) -> int:
    """Return the number of rows of an output of this shape; 0 if it is no such output."""
    if len(shape) not in (2, 3):
        return 0
    rows = shape[3 - output.axis] if len(shape) == 3 else shape[-1]
    return rows if output.shape(num_classes, rows)[1:] == shape[1:] else 0


def _num_named(reading: Reading) -> int:
    """Return how many outputs are called as in the layout."""
    return sum(
        any(hint in name.lower() for hint in output.names)
        for name, output in zip(reading.outputs, reading.layout.outputs, strict=True)
    )


def _is_named(reading: Reading) -> bool:
    return _num_named(reading) == len(reading.outputs)


def _unnamed(
    layouts: Sequence[Layout], possible: Sequence[ClassNumbers], values: Mapping[str, Array]
) -> str:
    """Return what is to be said of outputs some of which fit, but are not called so."""
    fits = (
        each
        for layout in layouts
        for numbers in possible
        for each in _fits(layout, numbers, values)
    )
    first = next((each for each in fits if len(each.outputs) < len(values)), None)
    if not first:
        return ""
    return f" (some may be: say which with --exits, such as {'+'.join(first.outputs)})"


def _fitting_otherwise(layouts: Sequence[Layout], values: Mapping[str, Array], size: Size) -> str:
    """Return what is to be said of numbers of classes that would fit; nothing if there are none."""
    widths = {width for value in values.values() for width in value.shape[1:]}
    counts = {width - beside for width in widths for beside in COLUMNS_BESIDE_CLASSES}
    fitting: dict[int, list[str]] = {}
    for count in sorted(counts):
        numbers = ClassNumbers(tuple(map(str, range(count)))) if count > 0 else None
        for layout in layouts:
            if (
                numbers
                and not layout.is_labelled
                and len(values) == len(layout.outputs)
                and _fit(layout, numbers, values, size)
            ):
                fitting.setdefault(count, []).append(layout.name)
    if not fitting:
        return ""
    parts = (f"{count} of {' or '.join(names)}" for count, names in fitting.items())
    return f" (they would fit {', '.join(parts)})"


# -- values ---------------------------------------------------------------------------------------


def _objections(
    reading: Reading, values: Mapping[str, Array], size: Size, stated: Collection[str]
) -> Iterator[str]:
    """Yield what in the outputs speaks against a layout that their shapes fit.

    ``stated`` are the fields of it that somebody has said.
    """
    yield from _about_scores(reading, values)
    if "boxes" not in stated:
        yield from _about_corners(reading, values)
    yield from _about_grids(reading, values, size)


def _about_scores(reading: Reading, values: Mapping[str, Array]) -> Iterator[str]:
    layout, parts = reading.layout, reading.parts(values)
    low, high = float(parts[SCORES].min()), float(parts[SCORES].max())
    probable = low >= -SCORE_SLACK and high <= 1 + SCORE_SLACK
    if layout.activation == "none" and not probable:
        yield f"scores from {low:.3g} to {high:.3g} are no probabilities"
    if layout.activation != "none" and probable:
        yield f"scores from {low:.3g} to {high:.3g} are probabilities already"
    if LABELS in parts:
        labels = parts[LABELS]
        if not np.array_equal(labels, np.round(labels)) or labels.min() < 0:
            yield "labels are no whole numbers"
        elif _has_unknown_labels(reading, values):
            yield f"there is a label {labels.max():.0f}"


def _about_corners(reading: Reading, values: Mapping[str, Array]) -> Iterator[str]:
    layout, boxes = reading.layout, reading.parts(values)[BOXES]
    inverted = float((boxes[..., 2:] < boxes[..., :2]).any(axis=-1).mean())
    if layout.boxes in CORNERS and inverted > MAX_INVERTED:
        yield f"{inverted:.0%} of boxes would have their second corner before the first"
    rivals = [x for x in LAYOUTS.values() if x.outputs == layout.outputs and x.boxes in CORNERS]
    if rivals and layout.boxes not in CORNERS and inverted <= MAX_INVERTED:
        yield "boxes are as corners are"


def _about_grids(reading: Reading, values: Mapping[str, Array], size: Size) -> Iterator[str]:
    layout, parts = reading.layout, reading.parts(values)
    reach = float(np.abs(parts[BOXES][..., :2]).max())
    if layout.offsets and reach > max(layout.grids):
        yield f"boxes up to {reach:.3g} are no offsets within cells"
    if layout.grids and not layout.offsets and reach <= max(layout.grids):
        yield f"boxes up to {reach:.3g} with a row for each cell are offsets"
    if OBJECTNESS in parts:
        constant = bool((parts[OBJECTNESS] == 1).all())
        of_cells = {_cells(x, size) for x in LAYOUTS.values() if x.outputs == layout.outputs}
        if layout.grids and constant:
            yield "objectness is 1 everywhere"
        if not layout.grids and not constant and reading.num_rows in of_cells:
            yield "there is a row for each cell"


def _cells(layout: Layout, size: Size) -> int:
    """Return the number of cells of a layout's grids; 0 if it has none."""
    return sum(height * width for height, width, _ in grid_cells(size, layout.grids))


def _with_units(reading: Reading, values: Mapping[str, Array], stated: bool) -> tuple[Reading, str]:
    """Return the reading with the units that its boxes seem to be in, and why they are others."""
    layout = reading.layout
    reach = float(np.abs(reading.parts(values)[BOXES]).max())
    if stated or layout.offsets or layout.units == "shares" or reach > SHARE_REACH:
        return reading, ""
    changed = replace(layout, units="shares")
    return replace(reading, layout=changed), f"boxes up to {reach:.3g} are shares of the image"
