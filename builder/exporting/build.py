"""Export of a detector into the model repository: the part of ``punctual build`` that needs torch.

    checkpoint or configuration -> ONNX segments -> each run beside torch -> repository, catalogue

Nothing in the repository is touched before every segment agrees with torch. While segments of other
weights take the place of earlier ones there is no catalogue, so that no mixture is served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from builder.config.detector import DetectorConfig
from builder.exporting.catalog import build_catalog
from builder.exporting.contract import WEIGHTS
from builder.exporting.installation import described, install
from builder.exporting.onnx_segments import export_segments, measure_postprocess, verify_segments
from builder.exporting.shared_weights import share_weights
from builder.modeling.architectures import AnyDetector, at_size, first_exits, make_detector
from builder.modeling.checkpoint import load_checkpoint
from builder.modeling.frozen import freeze
from serving.core.command_errors import CommandError
from serving.core.model_entry import Merging, ModelEntry
from serving.core.ports import Clock

POSTPROCESS_ROUNDS = 200

Size = tuple[int, int]
"""An input size, (height, width) in pixels."""


def size_name(size: Size) -> str:
    """Return what an input size is called in catalogues: width x height."""
    height, width = size
    return f"{width}x{height}"


def open_detector(
    source: Path | DetectorConfig,
    command: str,
    change: Callable[[DetectorConfig], DetectorConfig] = lambda config: config,
) -> tuple[AnyDetector, str]:
    """Return a detector, and the command that made it, or ``command`` where that is not known.

    The detector is the trained one in a checkpoint, its configuration as ``change`` returns it, or
    an untrained one with random weights.
    """
    if isinstance(source, Path):
        detector, _, metadata = load_checkpoint(source, change)
        return detector, str(metadata.get("command", command))
    torch.manual_seed(0)
    return make_detector(source).eval(), command


def at_sizes(
    detector: AnyDetector, sizes: Sequence[Size] = (), num_exits: int | None = None
) -> tuple[AnyDetector, ...]:
    """Return the detector at each input size, smallest first, as far as its first exits.

    The sizes are ``sizes`` or those that its configuration states; there are ``num_exits`` exits or
    all. Raises CommandError for what the detector cannot have, or a size that is given twice.
    """
    stated = sizes or detector.config.served_sizes or (detector.config.input_size,)
    resized: dict[Size, AnyDetector] = {}
    try:
        if num_exits is not None:
            detector = first_exits(detector, num_exits)
        for size in sorted(stated, key=lambda size: (size[0] * size[1], size)):
            if size in resized:
                raise ValueError(f"the input size {size_name(size)} is given twice")
            resized[size] = at_size(detector, size)
    except ValueError as error:
        raise CommandError(f"{detector.config.name}: {error}") from error
    return tuple(resized.values())


def write_model(
    detectors: Sequence[AnyDetector],
    name: str | None,
    command: str,
    repository: Path,
    clock: Clock,
) -> ModelEntry:
    """Write the segments of a detector and their catalogue as a model; return the entry.

    ``detectors`` are the one at each of its input sizes, smallest first; the segments of several
    share their weights. The model is called ``name`` or, without one, as its configuration is. What
    was checked, measured and removed is printed; what was measured before is in the catalogue if
    these are the same segments. Raises SegmentError if a segment does not compute what torch
    computes, OSError where nothing can be written.
    """
    several = len(detectors) > 1
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = [size_name(each.config.input_size) if several else None for each in detectors]
        exported = [
            export_segments(each, folder, size) for each, size in zip(detectors, sizes, strict=True)
        ]
        weights = None
        if several:
            paths = [folder / entry.file for files in exported for entry in files.values()]
            share_weights(paths, folder / WEIGHTS)
            weights = described(folder, WEIGHTS)
        catalogs = []
        for each, size, files in zip(detectors, sizes, exported, strict=True):
            where = f" at {size}" if size else ""
            for segment, error in verify_segments(freeze(each), folder, size).items():
                print(f"{segment:10}{where} agrees with torch to {error:.1e} of its largest value")
            tail_s = measure_postprocess(each, POSTPROCESS_ROUNDS, clock)
            print(f"decoding and suppression alone{where} take {1e3 * tail_s:.2f} ms")
            config = replace(each.config, name=name or each.config.name)
            # A segment whose weights were moved is another file than the one that was exported.
            segments = {key: described(folder, entry.file) for key, entry in files.items()}
            catalogs.append(build_catalog(config, segments, command, weights))
        merging, border_side = None, detectors[0].config.merge_border_side
        if several and border_side is not None:
            merging = Merging(border_side, detectors[0].config.merge_iou_threshold)
        return install(ModelEntry(tuple(catalogs), merging=merging), folder, repository)
