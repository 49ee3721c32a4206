"""A detector into the model repository: the part of ``punctual build`` that needs torch.

    checkpoint or configuration -> ONNX segments -> each run beside torch -> repository, catalogue

Nothing in the repository is touched before every segment agrees with torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from builder.catalog import build_catalog
from builder.config import DetectorConfig
from builder.export import export_segments, measure_postprocess, verify_segments
from builder.modeling.checkpoint import load_checkpoint
from builder.modeling.detector import Detector
from builder.modeling.frozen import freeze
from builder.repository import (
    read_catalog,
    remove_leftovers,
    version_folder,
    write_catalog,
)
from serving.core.catalog import Catalog
from serving.core.ports import Clock

POSTPROCESS_ROUNDS = 200


def open_detector(source: Path | DetectorConfig, command: str) -> tuple[Detector, str]:
    """The trained detector in a checkpoint, or an untrained one with random weights; and the
    command that made it, ``command`` where the checkpoint does not say."""
    if isinstance(source, Path):
        detector, _, metadata = load_checkpoint(source)
        return detector, str(metadata.get("command", command))
    torch.manual_seed(0)
    return Detector(source).eval(), command


def write_model(
    detector: Detector, name: str | None, command: str, repository: Path, clock: Clock
) -> Catalog:
    """Write the segments of ``detector`` and their catalogue as model ``name`` (None: as its
    configuration is called), and say what was checked, measured and removed. Returns the catalogue;
    what was measured before is in it if these are the same segments. Raises ValueError if a segment
    does not compute what torch computes."""
    config = replace(detector.config, name=name or detector.config.name)
    folder = version_folder(repository, config.name)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        files = export_segments(detector, Path(partial))
        for segment, error in verify_segments(freeze(detector), Path(partial)).items():
            print(f"{segment:10} agrees with torch to {error:.1e} of its largest value")
        tail_s = measure_postprocess(detector, POSTPROCESS_ROUNDS, clock)
        print(f"decoding and suppression alone take {1e3 * tail_s:.2f} ms")
        for entry in files.values():
            (Path(partial) / entry.file).replace(folder / entry.file)
    catalog = build_catalog(config, files, command)
    earlier = _catalog_in(folder)
    if earlier is not None and earlier.digest == catalog.digest:
        measured = ("exits", "evaluation", "profiles", "precisions")
        catalog = replace(catalog, **{fact: getattr(earlier, fact) for fact in measured})
    else:
        for path in remove_leftovers(repository, catalog):
            print(f"removed {path}, which belonged to other weights")
    write_catalog(catalog, folder)
    return catalog


def _catalog_in(folder: Path) -> Catalog | None:
    try:
        return read_catalog(folder)
    except (OSError, ValueError):
        return None
