"""A trained detector on disk: its structure, its weights, and what is known about them.

The file holds tensors and JSON types only, so it is read without executing anything from it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from builder.config import DetectorConfig, replace
from builder.modeling.detector import Detector

FORMAT = 1
"""Raised when a reader of the previous format could not use the file."""


def write_atomically(data: Mapping[str, Any], path: Path) -> None:
    """Save so that a reader, or a process killed half-way, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    torch.save(dict(data), partial)
    partial.replace(path)


def save_checkpoint(
    path: Path,
    config: DetectorConfig,
    weights: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Any],
    resume: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint. ``weights`` are those to serve; ``resume`` is for the trainer alone."""
    write_atomically(
        {
            "format": FORMAT,
            "detector": config.to_dict(),
            "weights": {name: tensor.detach().cpu() for name, tensor in weights.items()},
            "metadata": dict(metadata),
            "resume": None if resume is None else dict(resume),
        },
        path,
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The whole file. Raises ValueError if its format is another."""
    data: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if data.get("format") != FORMAT:
        raise ValueError(f"{path}: checkpoint format {data.get('format')}, expected {FORMAT}")
    return data


def structure_of(path: Path, config: DetectorConfig) -> DetectorConfig:
    """``config`` for a detector of the structure in the checkpoint ``path``: only the name, the
    classes and the input size stay."""
    stored = DetectorConfig.from_dict(read_checkpoint(path)["detector"])
    return replace(stored, name=config.name, classes=config.classes, input_size=config.input_size)


def start_from(detector: Detector, path: Path) -> None:
    """Give a detector of the structure in the checkpoint ``path`` its weights. Where there are
    other classes, what predicts them stays as it is. Raises ValueError for another structure."""
    weights = read_checkpoint(path)["weights"]
    own = detector.state_dict()
    if [*weights] != [*own]:
        raise ValueError(f"{path} holds a detector of another structure")
    fitting = {name: value for name, value in weights.items() if value.shape == own[name].shape}
    for name in weights:
        if name not in fitting and ".classes.predict." not in name:
            raise ValueError(f"{path} holds a detector of another structure: {name} differs")
    detector.load_state_dict({**own, **fitting})


def load_checkpoint(path: str | Path) -> tuple[Detector, DetectorConfig, dict[str, Any]]:
    """The detector in eval mode on the CPU with its served weights, its config, its metadata."""
    data = read_checkpoint(Path(path))
    config = DetectorConfig.from_dict(data["detector"])
    detector = Detector(config)
    detector.load_state_dict(data["weights"])
    return detector.eval(), config, data["metadata"]
