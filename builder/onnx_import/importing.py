"""Import of ONNX files as a model of a repository, one file for each input size or for all.

    file -> graph at a size -> trial run -> layout -> cut -> segments -> check -> repository

Nothing in the repository is touched before the segments find what the file finds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnx import TensorProto

from builder.exporting.contract import WEIGHTS
from builder.exporting.installation import described, install
from builder.exporting.repository import write_entry
from builder.exporting.shared_weights import share_weights
from builder.onnx_import.assembling import Plan, make_segments
from builder.onnx_import.checking import (
    Array,
    Image,
    expect,
    run_segments,
    synthetic_images,
)
from builder.onnx_import.classes import METADATA, ClassNumbers, possible_classes
from builder.onnx_import.comparing import Checked, Expected, compare
from builder.onnx_import.cutting import Names, cut, outputs_of
from builder.onnx_import.errors import ForeignModelError, printable
from builder.onnx_import.layouts import LAYOUTS, Preprocessing
from builder.onnx_import.metadata import check_task, size_of
from builder.onnx_import.postprocessing import Selection
from builder.onnx_import.reading import read_model
from builder.onnx_import.recognising import AUTO, Reading, recognise
from builder.onnx_import.sizing import (
    ImageInput,
    Size,
    at_size,
    find_image_input,
    for_any_batch,
    sizes_of,
)
from builder.onnx_import.trial import Trial
from serving.core.catalog import Catalog, Exit, sized_file_name
from serving.core.command_errors import invalid_arguments
from serving.core.letterbox import ModelInput
from serving.core.model_entry import ModelEntry

CreateImages = Callable[[ModelInput], Sequence[Image]]
"""Function that returns the images to check on as inputs of a model; none: they are made up."""


@dataclass(frozen=True)
class ImportOptions:
    """What is to be imported, and how. What is left out, the layout says."""

    files: tuple[Path, ...]
    name: str
    layout: str = AUTO
    classes: str = METADATA
    sizes: tuple[Size, ...] = ()
    exits: tuple[Names, ...] = ()
    """Tensors that each exit ends in, the first exit first; none: one exit, with all outputs."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """Fields of the layout to be replaced."""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the layout's preprocessing to be replaced."""
    selection: Selection = field(default_factory=Selection)
    license: str = "unknown"
    origin: str = ""
    """Where the detector comes from; empty: the name and the digest of its file."""
    command: str = ""


@dataclass(frozen=True)
class _Sized:
    """A file at one input size."""

    path: Path
    model: onnx.ModelProto
    """The graph for one image."""
    image: ImageInput
    size: Size
    possible: tuple[ClassNumbers, ...]


def import_model(
    wanted: ImportOptions,
    repository: Path,
    create_images: CreateImages,
    try_out: Callable[[Path, ModelEntry], None],
) -> ModelEntry:
    """Write files as a model of ``repository``; return its entry.

    What was recognised and checked is printed. ``try_out`` runs the segments and the catalogue,
    which are in a folder, as they will be served. Raises ForeignModelError with the first reason
    why they cannot be served, OSError where nothing can be read or written.
    """
    sized = _read_all(wanted)
    plans = []
    for each in sized:
        with _naming(each.path):
            plans.append(_plan(each, wanted, create_images))
    max_batch = 1 if any(plan.max_batch for plan in plans) else None
    least = min(plan.max_detections for plan in plans)
    selection = replace(wanted.selection, max_detections=least)
    plans = [replace(plan, selection=selection) for plan in plans]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        written = [_write_segments(plan, folder, len(plans) > 1) for plan in plans]
        weights = None
        if len(plans) > 1:
            share_weights(
                [folder / file for files in written for file in files.values()], folder / WEIGHTS
            )
            weights = described(folder, WEIGHTS)
        catalogs = []
        for each, plan, files in zip(sized, plans, written, strict=True):
            catalog = _catalog(each, plan, wanted, max_batch)
            segments = {name: described(folder, file) for name, file in files.items()}
            catalogs.append(replace(catalog, segments=segments, weights=weights))
        first = catalogs[0]
        entry = ModelEntry(
            tuple(
                replace(each, description=first.description, origin=first.origin)
                for each in catalogs
            )
        )
        write_entry(entry, folder)
        try_out(folder, entry)
        return install(entry, folder, repository)


def _write_segments(plan: Plan, folder: Path, several: bool) -> dict[str, str]:
    """Write the segments of one input size, of several if so; return the files' names."""
    files = {}
    for name, segment in make_segments(plan).items():
        file = f"{name}.onnx"
        files[name] = sized_file_name(file, _size_name(plan.size)) if several else file
        (folder / files[name]).write_bytes(segment.SerializeToString(deterministic=True))
    return files


def _size_name(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _read_all(wanted: ImportOptions) -> list[_Sized]:
    """Return the files at each input size, smallest first."""
    found: list[_Sized] = []
    for path in wanted.files:
        model = read_model(path)
        with _naming(path):
            check_task(model)
            image = find_image_input(model)
            possible = possible_classes(wanted.classes, model)
            asked = wanted.sizes if len(wanted.files) == 1 else ()
            found += [
                _Sized(path, at_size(model, image, size), image, size, possible)
                for size in sizes_of(image, asked, size_of(model))
            ]
    found.sort(key=lambda each: (each.size[0] * each.size[1], each.size))
    names = [_size_name(each.size) for each in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ForeignModelError(f"the input size {twice[0]} is given twice")
    return found


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have errors inside say which file they are about."""
    try:
        yield
    except ForeignModelError as error:
        raise type(error)(f"{path}: {error}") from error


# -- one input size -------------------------------------------------------------------------------


def _plan(sized: _Sized, wanted: ImportOptions, create_images: CreateImages) -> Plan:
    """Return what the segments of one size are made of, checked on images."""
    exits = wanted.exits or (outputs_of(sized.model.graph, sized.image.name),)
    parts = cut(sized.model.graph, sized.image.name, exits)
    trial = Trial(sized.model, sized.image, exits, parts.live)
    usual = Preprocessing() if wanted.layout == AUTO else LAYOUTS[wanted.layout].preprocessing
    images = synthetic_images(sized.size)
    values = trial.together(images, _preprocessing(usual, sized.image, wanted))
    readings, why = _read_outputs(sized, wanted, exits, values, trial.has_batch)
    if not wanted.exits:
        exits = (readings[0].outputs,)  # others are not read
        parts = cut(sized.model.graph, sized.image.name, exits)
    crossing = {name for some in (*exits, *parts.live) for name in some}
    layout, numbers = readings[0].layout, readings[0].numbers
    preprocessing = _preprocessing(layout.preprocessing, sized.image, wanted)
    model_input = ModelInput(sized.size[1], sized.size[0], preprocessing.resize)
    images = list(create_images(model_input)) or images
    print(printable(f"{sized.path} at {model_input.size}: {layout.name}: {why}"))
    print(f"  pixels: {preprocessing}; {len(numbers.classes)} classes")
    plan = Plan(
        model=sized.model,
        image=sized.image,
        size=sized.size,
        preprocessing=preprocessing,
        exits=exits,
        tensors={name: trial.tensors[name] for name in trial.tensors if name in crossing},
        readings=readings,
        selection=wanted.selection,
        max_batch=None,
    )
    of_images = [trial.alone(image, preprocessing) for image in images]
    selection, expected = _something_found(plan, of_images)
    plan, checked = _tried(replace(plan, selection=selection), sized.model, images, expected)
    print(f"  checked against the file {checked}")
    return replace(plan, selection=wanted.selection)


def _something_found(
    plan: Plan, of_images: Sequence[Mapping[str, Array]]
) -> tuple[Selection, list[list[Expected]]]:
    """Return which boxes to compare, and those of each exit in each image, some at every exit.

    They are the answers or, where there are none, boxes of any score.
    """
    for selection in (plan.selection, replace(plan.selection, score_threshold=0.0)):
        expected = [
            [expect(of_image, reading, plan.size, selection) for of_image in of_images]
            for reading in plan.readings
        ]
        if all(any(each.rows for each in of_exit) for of_exit in expected):
            return selection, expected
    raise ForeignModelError(
        "it finds nothing in the images that it is to be checked on: give some with --images"
    )


def _preprocessing(usual: Preprocessing, image: ImageInput, wanted: ImportOptions) -> Preprocessing:
    """Return what is done to pixels: what is usual, with what was asked for instead."""
    if image.element_type == TensorProto.UINT8:
        usual = Preprocessing(usual.resize, usual.color)  # the network does the rest
    with invalid_arguments():
        return replace(usual, **wanted.preprocessing)


def _read_outputs(
    sized: _Sized,
    wanted: ImportOptions,
    exits: Sequence[Names],
    values: Mapping[str, Array],
    has_batch: bool,
) -> tuple[list[Reading], str]:
    """Return how the outputs of each exit are read, all alike, and why."""
    readings: list[Reading] = []
    name, possible, why = wanted.layout, sized.possible, ""
    for names in exits:
        of_exit = {each: values[each] for each in names}
        reading, reason = recognise(name, wanted.changes, possible, of_exit, sized.size, has_batch)
        if readings:
            reading = replace(reading, layout=readings[0].layout)
        why = why or reason
        readings.append(reading)
        name, possible = reading.layout.name, (reading.numbers,)
    return readings, why


def _tried(
    plan: Plan,
    for_one: onnx.ModelProto,
    images: Sequence[Image],
    expected: Sequence[list[Expected]],
) -> tuple[Plan, Checked]:
    """Return the plan for any number of images, if it is sound, or that for one image at a time.

    It is sound if its segments find what the file does. ``for_one`` is the graph for one image.
    """
    why = "it takes a single image"
    if plan.image.has_batch and not any(each.rows_vary for each in plan.tensors.values()):
        for guess in (False, True):
            freed = replace(plan, model=for_any_batch(for_one, guess))
            try:
                return freed, _check(freed, images, expected)
            except ForeignModelError as error:
                why = str(error)
    alone = replace(plan, model=for_one, max_batch=1)
    checked = _check(alone, images, expected)
    print(printable(f"  it is run on one image at a time: {why}"))
    return alone, checked


def _check(plan: Plan, images: Sequence[Image], expected: Sequence[list[Expected]]) -> Checked:
    at_once = plan.max_batch or len(images)
    found = run_segments(make_segments(plan), len(plan.readings), images, at_once)
    return compare(found, expected, plan.size)


def _catalog(sized: _Sized, plan: Plan, wanted: ImportOptions, max_batch: int | None) -> Catalog:
    """Return the catalogue of one size, without its files and whatever is measured later."""
    reading, selection = plan.readings[0], plan.selection
    digest = hashlib.sha256(sized.path.read_bytes()).hexdigest()
    return Catalog(
        name=wanted.name,
        version="1",
        description=f"{sized.path.name}, imported as {reading.layout.name}",
        license=wanted.license,
        flavour="onnx",
        classes=reading.numbers.classes,
        input_height=plan.size[0],
        input_width=plan.size[1],
        resize=plan.preprocessing.resize,
        max_detections=plan.max_detections,
        score_threshold=selection.score_threshold,
        exits=tuple(Exit(depth, 0.0, 0.0, {}) for depth in range(1, len(plan.readings) + 1)),
        evaluation=None,
        segments={},
        profiles={},
        command=wanted.command,
        origin=wanted.origin or f"{sized.path.name}, SHA-256 {digest}",
        max_batch=max_batch,
    )
