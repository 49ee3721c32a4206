"""The opening of runners: each runtime's is imported when it is chosen.

open_runner      one input size of one model
open_family      all sizes of the models that are served as one, as one runner
open_instances   several of these, which may run at the same time
open_members     the same by size, for whoever makes them one elsewhere
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from serving.artifacts.model_folders import read_catalog
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.ports import SegmentRunner
from serving.core.segment import Segment
from serving.models.repository import RUNNERS, check_model, read_family
from serving.models.runtime_options import RuntimeOptions
from serving.runners.family import FamilyRunner, Refit

WITH_REPLICAS = frozenset({"openvino"})
"""Runtimes whose runners share what they have compiled, for batch sizes that may be chosen, with
replicas that run beside them. On any other each instance is opened by itself."""

COMPILED_FORMS = ("openvino",)
"""Runtimes whose compiled segments can be kept."""


def open_runner(
    folder: Path,
    options: RuntimeOptions,
    wanted: Collection[Segment] | None = None,
    size: str | None = None,
) -> SegmentRunner:
    """Return one runner over the segments in ``folder``, whatever the number of instances.

    It is of the input size called ``size``, or of the only one, and has all that it can run, or
    those ``wanted``. Raises ModelError for an unknown runtime, a size or precision that is not
    there, or files that are not those that were built, ImportError when the runtime's library is
    not installed.
    """
    check_model(folder, [size], options)
    return _open_replicas(folder, replace(options, num_instances=1), wanted, size)[0]


def open_family(folders: Sequence[Path], options: RuntimeOptions, refit: Refit) -> SegmentRunner:
    """Return one runner over all sizes of the models in ``folders``, as ``open_instances`` does."""
    return open_instances(folders, replace(options, num_instances=1), refit)[0]


def open_instances(
    folders: Sequence[Path], options: RuntimeOptions, refit: Refit, *, only_paying: bool = False
) -> list[SegmentRunner]:
    """Return a runner over all sizes of the models in ``folders`` for each instance.

    They may run at the same time; of the sizes of one, each has all of its threads, since only one
    runs at a time. ``refit`` brings images to the smaller sizes. ``only_paying``, and what is
    raised, are as of ``open_members``.
    """
    opened = open_members(folders, options, only_paying=only_paying)
    if len(opened) == 1:
        return opened[0]
    family = read_family(folders)
    return [FamilyRunner(family, runners, refit) for runners in zip(*opened, strict=True)]


def open_members(
    folders: Sequence[Path], options: RuntimeOptions, *, only_paying: bool = False
) -> list[list[SegmentRunner]]:
    """Return the runners of each size of the models in ``folders``, by their numbers in a family.

    Each size has one for each instance. With ``only_paying``, whole models are compiled for the
    batch sizes alone that paid when they were profiled. Raises as ``open_runner``.

    Where no size has more than one exit, there is no place to stop at on the way to it: the fused
    segments alone are opened, which take half of the memory.
    """
    family = read_family(folders)
    wanted = frozenset(segments.fused_segments(1)) if family.num_exits == 1 else None
    opened: list[list[SegmentRunner]] = []
    try:
        for folder, entry in zip(folders, family.entries, strict=True):
            check_model(folder, entry.sizes, options)
            for size in entry.sizes:
                opened.append(
                    _open_replicas(folder, options, wanted, size, only_paying=only_paying)
                )
    except BaseException:
        for runners in opened:
            for runner in runners:
                runner.close()
        raise
    return opened


def _open_replicas(
    folder: Path,
    options: RuntimeOptions,
    wanted: Collection[Segment] | None,
    size: str | None,
    *,
    only_paying: bool = False,
) -> list[SegmentRunner]:
    """Return a runner of one size for each instance, of what has been checked."""
    catalog = read_catalog(folder, size)
    runtime, num_instances = options.runtime, options.num_instances
    module, _, name = RUNNERS[runtime].partition(":")
    shared = num_instances if num_instances > 1 and runtime in WITH_REPLICAS else None
    choices = {
        "wanted": wanted,
        "precision": options.precision,
        "num_instances": shared,
        "cache": options.cache if runtime in COMPILED_FORMS else None,
        "batch_sizes": _paying_sizes(catalog, runtime, wanted) if only_paying else None,
    }
    choice = {key: value for key, value in choices.items() if value is not None}
    create = partial(
        getattr(importlib.import_module(module), name),
        folder,
        catalog,
        options.num_threads,
        **choice,
    )
    first = create()
    others = range(1, num_instances)
    return [first, *[create() if shared is None else first.replica() for _ in others]]


def _paying_sizes(
    catalog: Catalog, runtime: str, wanted: Collection[Segment] | None
) -> tuple[int, ...] | None:
    """Return the batch sizes at which any of the ``wanted`` whole models paid when profiled.

    None, which is all of the runtime's, where others are wanted, or it was not profiled.
    """
    profile = catalog.profiles.get(runtime)
    if runtime not in WITH_REPLICAS or profile is None or wanted is None:
        return None
    if not all(segment.head and (segment, 1) in profile.table for segment in wanted):
        return None
    return tuple(sorted(set().union(*(profile.paying_sizes(segment) for segment in wanted))))
