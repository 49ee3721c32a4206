"""Whether a recipe can train a detector, and whether it may go on with a run that is there."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from builder.config.configuration import PARTS, Config
from builder.config.detector import DetectorConfig
from builder.config.recipe import TrainConfig
from builder.data import Dataset
from builder.modeling.architectures import AnyDetector
from serving.core.command_errors import InvalidArgument

CHANGEABLE = (
    "epochs",
    "micro_batches",
    "validate_every",
    "validation_sizes",
    "validation_split",
    "growing",
)
"""Fields of a recipe that may change when a run is resumed."""


class InvalidRecipe(InvalidArgument):
    """Error of a recipe that cannot train this detector on this data set."""


def check_data(
    config: Config, dataset: Dataset, held_out: Dataset | None, num_processes: int
) -> None:
    """Raise InvalidRecipe if the recipe cannot train this detector on these data sets."""
    recipe = config.train
    num_parts = num_processes * recipe.micro_batches
    rules = (
        (
            dataset.classes != config.detector.classes,
            f"the detector's classes are not those of {recipe.dataset}: {dataset.classes}",
        ),
        *(
            (
                not each.has_objects,
                f"there is no object in the split {split!r}",
            )
            for split, each in ((recipe.split, dataset), (recipe.validation_split, held_out))
            if each is not None
        ),
        (
            recipe.batch_size % num_parts,
            f"a batch of {recipe.batch_size} cannot be shared by {num_processes} processes in "
            f"{recipe.micro_batches} parts each",
        ),
        (
            num_parts > 1 and len(dataset.samples) < recipe.batch_size,
            f"{len(dataset.samples)} images are less than a batch of {recipe.batch_size}",
        ),
    )
    for wrong, sentence in rules:
        if wrong:
            raise InvalidRecipe(sentence)


def check_normalisation(model: AnyDetector, config: Config, device: torch.device) -> None:
    """Raise InvalidRecipe if a batch of one image cannot be normalised at some input size.

    In training a normalisation needs two cells of a feature map, and the deepest map of a small
    input has one an image.
    """
    sizes = [(side, side) for side in config.train.input_sizes] or [config.detector.input_size]
    height, width = min(sizes)
    trial = copy.deepcopy(model).train()
    images = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=device)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            trial(images, list(range(1, config.detector.num_exits + 1)))
    except ValueError as error:
        raise InvalidRecipe(
            f"one image at once at {width}x{height} is too little to train on, since its "
            "smallest feature map has one cell: take larger batches or inputs"
        ) from error


def config_of(checkpoint: Mapping[str, Any]) -> Config:
    """Return the configuration, detector and recipe, of the run in ``checkpoint``.

    Raises KeyError, TypeError and ValueError for what is no run of this version.
    """
    return Config(
        DetectorConfig.from_dict(checkpoint["detector"]),
        TrainConfig.from_dict(checkpoint["metadata"]["train"]),
    )


def check_resumed(
    stored: Mapping[str, Any], config: Config, metadata: Mapping[str, Any], path: Path
) -> None:
    """Raise InvalidRecipe if the run in ``stored`` would go on as another one."""
    if stored["resume"] is None:
        raise InvalidRecipe(f"{path} is no run: start from it with --init")
    before = stored["metadata"]
    try:
        trained = config_of(stored)
        data, epochs = before["data"]["train"], before["epochs"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidRecipe(f"{path} is of another version ({error}): start anew") from error
    for part in PARTS:
        old, new = getattr(trained, part), getattr(config, part)
        for field in fields(old):
            was, now = getattr(old, field.name), getattr(new, field.name)
            if was != now and field.name not in CHANGEABLE:
                raise InvalidRecipe(
                    f"the run in {path} has {part}.{field.name} {was!r}, not {now!r}: go on with "
                    "what it has, or choose another folder"
                )
    if data != metadata["data"]["train"] and not config.train.growing:
        raise InvalidRecipe(f"the run in {path} is of other images or annotations")
    if epochs > config.train.epochs:
        raise InvalidRecipe(
            f"the run in {path} has {epochs} epochs already, {config.train.epochs} were asked for"
        )
