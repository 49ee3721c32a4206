"""A trained detector on disk: its structure, its weights, and what is known about them.

The file holds tensors and JSON types only, so it is read without executing anything from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from builder.config.detector import DetectorConfig
from builder.modeling.architectures import AnyDetector, make_detector
from serving.core.command_errors import InvalidArgument

FORMAT = 1
"""Version of the file's format, raised when a reader of the previous one could not use the file."""


PREDICTS_CLASSES = re.compile(r"\.classes\.(predict|pointwise)\.|\.refinements\.\d+\.predict\.")
"""Pattern in the names of weights that are of no use for other classes."""


class CheckpointError(InvalidArgument):
    """Error of a file that is no checkpoint, or not one of this detector.

    The message begins with the file's path.
    """


def write_atomically(data: Mapping[str, Any], path: Path) -> None:
    """Save ``data`` so that a reader, or a process killed half-way, sees a whole file.

    It is the old one or the new one. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")  # what a killed one left is overwritten
    try:
        with partial.open("wb") as file:  # by whose name alone torch hides why it cannot be written
            torch.save(dict(data), file)
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise


def save_checkpoint(
    path: Path,
    config: DetectorConfig,
    weights: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Any],
    resume: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint.

    ``weights`` are those to serve; ``resume`` is for the trainer alone.
    """
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


def load_tensors(path: Path) -> Any:
    """Return what is in a torch file of tensors and plain data, executing nothing in it.

    Raises OSError, and ValueError for anything else.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # opening a folder says that it is
        raise ValueError("no regular file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever an unpickler comes to, given bytes that are no pickle
        raise ValueError("no torch file of tensors and plain data alone") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the whole content of a checkpoint.

    Raises CheckpointError for another file or format, or a damaged one, and OSError.
    """
    try:
        data = load_tensors(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(data, dict) or "format" not in data:
        raise CheckpointError(
            f"{path} is no checkpoint of punctual train; punctual import makes one of the weights "
            "of others"
        )
    if type(data["format"]) is not int or data["format"] != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {data['format']}, expected {FORMAT}")
    for part in ("detector", "weights", "metadata"):
        if not isinstance(data.get(part), dict):
            raise CheckpointError(f"{path} is damaged: its {part!r} are missing")
    for name, value in data["weights"].items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path} is damaged: its weights have {name!r}, which is none")
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise CheckpointError(f"{path} is damaged: {name!r} is no dense tensor with values")
    return data


def structure_of(path: Path, config: DetectorConfig) -> DetectorConfig:
    """Return ``config`` with the structure of the detector in the checkpoint ``path``.

    Only the name, the classes and the input sizes stay. Raises CheckpointError and OSError, and
    ValueError for an input size that the structure cannot have.
    """
    stored = _detector_in(read_checkpoint(path), path)
    kept = ("name", "classes", "input_size", "served_sizes")
    return replace(stored, **{name: getattr(config, name) for name in kept})


def start_from(detector: AnyDetector, path: Path) -> None:
    """Give ``detector`` the weights in the checkpoint ``path``, which must be of its structure.

    Where there are other classes, or in another order, what predicts them stays as it is. Raises
    CheckpointError and OSError.
    """
    data = read_checkpoint(path)
    others = _detector_in(data, path).classes != detector.config.classes
    state = detector.state_dict()
    own = {name for name in state if others and PREDICTS_CLASSES.search(name)}
    detector.load_state_dict(_matched(data["weights"], state, path, own))


def load_backbone(detector: AnyDetector, path: Path) -> None:
    """Give the backbone of ``detector`` that of the checkpoint ``path``, and nothing else.

    The two detectors may differ in all else. Raises CheckpointError and OSError.
    """
    state = detector.backbone.state_dict()
    detector.backbone.load_state_dict(_matched(backbone_of(path), state, path))


def backbone_of(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the backbone in a checkpoint. Raises CheckpointError and OSError."""
    prefix = "backbone."
    weights = read_checkpoint(path)["weights"].items()
    return {name.removeprefix(prefix): x for name, x in weights if name.startswith(prefix)}


def load_checkpoint(
    path: str | Path, change: Callable[[DetectorConfig], DetectorConfig] = lambda config: config
) -> tuple[AnyDetector, DetectorConfig, dict[str, Any]]:
    """Return the detector in a checkpoint, its config, as ``change`` returns it, and its metadata.

    The detector is in eval mode, on the CPU, with its served weights. Raises CheckpointError, also
    where the weights do not fit the config any more, and OSError.
    """
    path = Path(path)
    data = read_checkpoint(path)
    config = change(_detector_in(data, path))
    detector = make_detector(config)
    detector.load_state_dict(_matched(data["weights"], detector.state_dict(), path))
    return detector.eval(), config, data["metadata"]


def _detector_in(data: Mapping[str, Any], path: Path) -> DetectorConfig:
    try:
        return DetectorConfig.from_dict(data["detector"])
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _matched(
    weights: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    path: Path,
    kept: Collection[str] = (),
) -> dict[str, torch.Tensor]:
    """Return ``weights`` for a detector with this ``state``, of which those that are ``kept`` stay.

    Raises CheckpointError for the first that does not fit.
    """
    what = f"{path} holds a detector of another structure"
    for name in (*state, *weights):
        if name not in weights:
            raise CheckpointError(f"{what}: {name} is missing")
        if name not in state:
            raise CheckpointError(f"{what}: nothing here corresponds to {name}")
        if name not in kept and weights[name].shape != state[name].shape:
            raise CheckpointError(
                f"{what}: {name} differs, {tuple(weights[name].shape)} and not "
                f"{tuple(state[name].shape)}"
            )
        if weights[name].is_floating_point() != state[name].is_floating_point():
            raise CheckpointError(f"{what}: {name} is of type {weights[name].dtype}")
        if not weights[name].isfinite().all():
            raise CheckpointError(f"{path}: {name} has values that are not finite")
    return {name: state[name] if name in kept else weights[name] for name in state}
