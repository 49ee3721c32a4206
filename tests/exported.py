"""Detectors, exported: a small untrained one, which every runner must be able to run, and a trained
one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from builder.config.named import CONFIGS
from builder.exporting.catalog import build_catalog
from builder.exporting.int8_segments import quantize_segments
from builder.exporting.onnx_segments import export_segments
from builder.exporting.repository import write_entry
from builder.exporting.torch_programs import export_programs
from builder.modeling.anytime_ssd import AnytimeSSD
from builder.modeling.architectures import AnyDetector, make_detector
from builder.modeling.frozen import freeze
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.model_entry import ModelEntry
from serving.imaging.decoding import load_image
from tests import trained


@dataclass(frozen=True)
class Exported:
    """The detector as exported, its segments on disk, and images of its input size."""

    frozen: AnyDetector
    folder: Path
    catalog: Catalog
    images: list[np.ndarray]

    @property
    def entry(self) -> ModelEntry:
        """The model of a repository that has no other input size."""
        return ModelEntry((self.catalog,))

    def quantize(self) -> Path:
        """Write int8 segments, calibrated on the images; return the folder of TensorRT's."""
        return quantize_segments(self.folder, self.entry, {self.catalog.size: self.images})


def exported_detector(folder: Path, **changes: Any) -> Exported:
    """A detector with random weights whose heads find boxes in noise, with ``changes`` to its
    configuration."""
    torch.manual_seed(0)
    small = {
        "input_size": (128, 256),
        "num_stacks": 3,
        "neck_channels": 32,
        "head_channels": 32,
    }
    config = replace(CONFIGS["bccd"].detector, **{**small, **changes})
    random = np.random.default_rng(0)
    shape = (*config.input_size, 3)
    images = [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(4)]
    detector = make_detector(config).train()
    _find_boxes(detector)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # one pass over the images sets the statistics
    with torch.no_grad():
        detector(torch.from_numpy(np.stack(images)))
    detector.eval()
    files = export_segments(detector, folder)
    return Exported(freeze(detector), folder, build_catalog(config, files, "test"), images)


def ssdlite() -> AnyDetector:
    """An untrained SSDLite, stretched, that finds boxes in noise."""
    torch.manual_seed(0)
    everyday = CONFIGS["everyday"].detector
    small = replace(
        everyday, classes=("a", "b"), neck_channels=8, num_stacks=1, served_sizes=((76, 76),)
    )
    made = make_detector(small).eval()
    for head in made.backbone.heads:
        torch.nn.init.normal_(head.classes.pointwise.weight, std=0.15)
    return made


def _find_boxes(detector: AnyDetector) -> None:
    """Give its predictions weights that make something of noise."""
    if isinstance(detector, AnytimeSSD):
        for head in detector.backbone.heads:
            torch.nn.init.normal_(head.classes.pointwise.weight, std=0.15)
        for stack in detector.stacks:
            for refinement in stack.refinements:
                torch.nn.init.normal_(refinement.predict.weight, std=0.15)
        return
    for head in filter(None, (detector.light_head, detector.retina_head)):
        for tower, std in ((head.classes, 0.15), (head.boxes, 0.02)):
            *_, last = tower.predict.modules()  # of a separable convolution the second
            torch.nn.init.normal_(last.weight, std=std)


def trained_detector(folder: Path, num_exits: int) -> tuple[Catalog, list[np.ndarray]]:
    """The trained model as far as an exit, its unit segments copied to ``folder``; its catalogue,
    and images of its input size that it knows."""
    catalog = replace(trained.CATALOG, exits=trained.CATALOG.exits[:num_exits])
    for segment in segments.unit_segments(num_exits):
        shutil.copy(trained.FOLDER / catalog.segments[segment.name].file, folder)
    return catalog, [load_image(file.read_bytes(), catalog.input)[0] for file in trained.IMAGES]


def write_programs(exported: Exported) -> None:
    """Write the torch programs and the catalogue that they belong to."""
    write_entry(ModelEntry((exported.catalog,)), exported.folder)
    export_programs(exported.frozen, exported.folder)
