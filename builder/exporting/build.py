"""Export of a detector into the model repository: the part of ``punctual build`` that needs torch.

    checkpoint or configuration -> ONNX segments -> each run beside torch -> repository, catalogue

Nothing in the repository is touched before every segment agrees with torch. While segments of other
weights take the place of earlier ones there is no catalogue, so that no mixture is served.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from builder.config.named import DetectorConfig
from builder.exporting.catalog import build_catalog
from builder.exporting.onnx_segments import export_segments, measure_postprocess, verify_segments
from builder.exporting.repository import PARTIAL, remove_leftovers, remove_partial, write_entry
from builder.modeling.architectures import AnyDetector, make_detector
from builder.modeling.checkpoint import load_checkpoint
from builder.modeling.frozen import freeze
from serving.artifacts.model_folders import CATALOG, ModelError, read_entry, version_folder
from serving.core.catalog import Catalog, ModelEntry
from serving.core.command_errors import CommandError
from serving.core.ports import Clock

POSTPROCESS_ROUNDS = 200
SERVED_RESIZE = "letterbox"
"""How a server brings every image to a model's input; see ``DetectorConfig.resize``."""


def open_detector(source: Path | DetectorConfig, command: str) -> tuple[AnyDetector, str]:
    """Return a detector, and the command that made it, or ``command`` where that is not known.

    The detector is the trained one in a checkpoint, or an untrained one with random weights.
    """
    if isinstance(source, Path):
        detector, _, metadata = load_checkpoint(source)
        return detector, str(metadata.get("command", command))
    torch.manual_seed(0)
    return make_detector(source).eval(), command


def write_model(
    detector: AnyDetector, name: str | None, command: str, repository: Path, clock: Clock
) -> Catalog:
    """Write the segments of ``detector`` and their catalogue as a model; return the catalogue.

    The model is called ``name`` or, without one, as its configuration is. What was checked,
    measured and removed is printed; what was measured before is in the catalogue if these are the
    same segments. Raises CommandError for a detector that learnt from images as no server makes
    them, SegmentError if a segment does not compute what torch computes, OSError where nothing can
    be written.
    """
    config = replace(detector.config, name=name or detector.config.name)
    if config.resize != SERVED_RESIZE:
        raise CommandError(
            f"{config.name} learnt from images brought to its input by {config.resize}, and "
            f"servers {SERVED_RESIZE} them: train it on with "
            f"--set 'detector.resize=\"{SERVED_RESIZE}\"'"
        )
    with TemporaryDirectory() as scratch:
        files = export_segments(detector, Path(scratch))
        for segment, error in verify_segments(freeze(detector), Path(scratch)).items():
            print(f"{segment:10} agrees with torch to {error:.1e} of its largest value")
        tail_s = measure_postprocess(detector, POSTPROCESS_ROUNDS, clock)
        print(f"decoding and suppression alone take {1e3 * tail_s:.2f} ms")
        return _install(build_catalog(config, files, command), Path(scratch), repository)


def _install(catalog: Catalog, source: Path, repository: Path) -> Catalog:
    """Put the segments of ``catalog``, which lie in ``source``, and the catalogue in place.

    Wherever this is interrupted, it leaves in the repository the earlier model, this one, or no
    catalogue: never that of one with segments of the other.
    """
    folder = version_folder(repository, catalog.name)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    earlier = _entry_in(folder)
    entry = ModelEntry((catalog,), default=earlier is not None and earlier.default)
    if earlier is not None and earlier.digest == entry.digest:
        measured = ("exits", "evaluation", "profiles", "precisions")
        (known,) = earlier.catalogs
        catalog = replace(catalog, **{fact: getattr(known, fact) for fact in measured})
        entry = replace(earlier, catalogs=(catalog,))
    else:
        (folder / CATALOG).unlink(missing_ok=True)
        for path in remove_leftovers(repository, catalog):
            print(f"removed {path}, which belonged to other weights")
    for segment in catalog.segments.values():
        # Beside it first: who serves the file that is there may have it mapped into memory.
        partial = folder / f"{PARTIAL}{segment.file}"
        shutil.copyfile(source / segment.file, partial)
        partial.replace(folder / segment.file)
    write_entry(entry, folder)
    return catalog


def _entry_in(folder: Path) -> ModelEntry | None:
    try:
        return read_entry(folder)
    except ModelError:
        return None
