"""Accuracies by training: a small detector for a few epochs, measured on images held out from its
training set.

    OUT/children/INDEX/    a run of ``builder.training.loop``, until its child is in the journal
    OUT/features/          what a frozen backbone makes of the images, once for all children

A child whose process was killed goes on from the last whole epoch. Children share the order of the
images and their augmentation: a seed is of the whole search, and repeats of a graph have the next.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builder.config.configuration import Config
from builder.search.evaluators.base import Evaluation, Job

NECK = "searched"
"""Name of the pyramid of a child."""


@dataclass(frozen=True, slots=True)
class TrainingEvaluator:
    """An evaluator that trains a recipe with the pyramid of each child."""

    config: Config
    """Recipe, whose own pyramid does not matter."""
    data: Path
    folder: Path
    data_digest: str
    features: Path | None = None
    """Folder for what a frozen backbone makes of the images, which may be that of other searches;
    without one it is made for each child."""
    backbone: Path | None = None
    """Checkpoint whose backbone every child starts with, or else a random one."""
    backbone_digest: str = ""

    @property
    def is_light(self) -> bool:
        """Whether it is: never."""
        return False

    @property
    def num_exits(self) -> int:
        """Number of exits of every child."""
        return self.config.detector.num_exits

    def describe(self) -> dict[str, Any]:
        """Return the recipe, and which images."""
        return {
            "name": "train",
            "detector": self.config.detector.to_dict(),
            "train": self.config.train.to_dict(),
            "data": self.data_digest,
            **({"backbone": self.backbone_digest} if self.backbone else {}),
        }

    def evaluate(self, job: Job) -> Evaluation:
        """Train, or go on training, and return what was measured."""
        import torch  # noqa: PLC0415  only in the process that trains

        from builder.modeling.checkpoint import read_checkpoint  # noqa: PLC0415
        from builder.training.epoch import Diverged  # noqa: PLC0415
        from builder.training.loop import train  # noqa: PLC0415

        torch.set_num_threads(1)
        logging.getLogger("builder.training.loop").setLevel(logging.ERROR)
        detector = replace(self.config.detector, neck=NECK, graph=job.graph.rows)
        config = Config(detector, replace(self.config.train, seed=job.seed))
        try:
            path = train(
                config,
                self.data,
                self._run(job.index),
                resume=True,
                progress=False,
                backbone=self.backbone,
                features=self.features,
            )
        except Diverged as error:
            return Evaluation((), str(error))
        aps = read_checkpoint(path)["metadata"]["validation"]["validation"]["ap"]
        if not all(math.isfinite(ap) for ap in aps):
            return Evaluation((), "an accuracy is no number")
        return Evaluation(tuple(aps))

    def forget(self, index: int) -> None:
        """Remove the run of a child."""
        shutil.rmtree(self._run(index), ignore_errors=True)

    def _run(self, index: int) -> Path:
        return self.folder / "children" / f"{index:05}"


def backbone_digest(path: Path) -> str:
    """Return the digest of the backbone in a checkpoint. Raises CheckpointError, and OSError."""
    from builder.modeling.checkpoint import backbone_of  # noqa: PLC0415  brings torch along

    digest = hashlib.sha256()
    for name, value in sorted(backbone_of(path).items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def held_out_digest(config: Config, data: Path) -> str:
    """Return the digest of the images that children train on and are measured on.

    Raises DatasetError, and ValueError for a recipe that holds out none.
    """
    from builder.training.loop import digests, read_split  # noqa: PLC0415  brings torch along

    recipe = config.train
    if recipe.validation_split is None:
        raise ValueError("the recipe measures on no images: a search needs some that are held out")
    splits = (recipe.split, recipe.validation_split)
    found = digests(*(read_split(recipe, data, split, "skip") for split in splits))
    return "/".join(str(found[name])[:16] for name in ("train", "validation"))
