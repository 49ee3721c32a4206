"""What a frozen backbone makes of the images, kept for all trainings that have it in common.

    FOLDER/DIGEST/epoch_0000.pt   maps of each batch of an epoch, and its targets
    FOLDER/DIGEST/held_out.pt     maps of the images that are held out

Where the backbone learns nothing, trainings with the same images and seed that differ in what
follows it compute the same maps of the same views, and, with the same anchors, the same targets. So
they are computed once. A training comes out
as it does without them, bit for bit, in a fraction of the time.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from builder.config.recipe import TrainConfig
from builder.data.loader import steps_per_epoch
from builder.modeling.architectures import AnyDetector
from builder.modeling.checkpoint import load_tensors, write_atomically
from builder.modeling.exits import Inputs
from builder.training.batch import Batch, move
from builder.training.losses import Targets, assign
from builder.training.precision import lowers
from builder.training.views import AugmentedViews, Views

MAX_BYTES = 8 * 2**30
"""Most bytes of maps that one training keeps; one that has more computes them each time."""

VIEW_FIELDS = (
    "aspect_jitter",
    "batch_size",
    "brightness_jitter",
    "contrast_jitter",
    "horizontal_flip",
    "images_per_epoch",
    "input_sizes",
    "micro_batches",
    "scale_jitter",
    "seed",
    "vertical_flip",
)
"""Fields of a recipe that the views of an epoch depend on."""

log = logging.getLogger(__name__)


def is_frozen(recipe: TrainConfig) -> bool:
    """Return whether the backbone stays as it is, statistics and all."""
    return recipe.backbone_learning_rate_ratio == 0 and recipe.frozen_norms


def stored_views(folder: Path, model: AnyDetector, views: AugmentedViews) -> Views:
    """Return the same views as what the backbone of ``model`` makes of them, kept in ``folder``.

    They are ``views`` themselves if the backbone learns, or if there would be too much to keep.
    """
    recipe = views.config.train
    if not is_frozen(recipe):
        return views
    found = StoredViews(folder / _digest(model, views), model, views)
    if (size := found.num_bytes()) > MAX_BYTES:
        log.info("maps of %.1f GB are not kept, but computed each time", size / 1e9)
        return views
    return found


@dataclass(frozen=True, slots=True)
class StoredViews:
    """Views as what a frozen backbone made of them."""

    folder: Path
    model: AnyDetector
    views: AugmentedViews

    def steps(self, epoch: int) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step."""
        stored = self._kept(
            f"epoch_{epoch:04}.pt",
            lambda: [[self._packed(batch) for batch in step] for step in self.views.steps(epoch)],
        )
        for step in stored:
            yield [
                Batch(maps, (), tuple(input_size), Targets(*targets))
                for maps, targets, input_size in step
            ]

    def held_out(self) -> Iterator[Inputs]:
        """Yield maps of held-out images."""
        yield from self._kept(
            "held_out.pt",
            lambda: [self._maps(inputs, training=False) for inputs in self.views.held_out()],
        )

    def num_bytes(self) -> int:
        """Return about how many bytes the maps of all epochs have."""
        recipe = self.views.config.train
        height, width = self.views.config.detector.input_size
        maps = self._maps(torch.zeros(1, height, width, 3, dtype=torch.uint8), training=True)
        images = recipe.epochs * recipe.batch_size
        images *= steps_per_epoch(len(self.views.dataset.samples), recipe)
        return images * sum(x.nbytes for x in maps)

    def _packed(self, batch: Batch) -> tuple[list[Tensor], tuple[Tensor | None, ...], list[int]]:
        config = self.views.config.detector
        anchors = self.model.anchors.cpu()
        if batch.input_size != config.input_size:
            anchors = self.model.anchors_at(batch.input_size)
        targets = assign(anchors, batch.truths, len(config.classes))
        return self._maps(batch.inputs, training=True), targets.tensors(), list(batch.input_size)

    def _maps(self, inputs: Inputs, *, training: bool) -> list[Tensor]:
        """Return what the backbone makes of images: as a step does, or else as validation."""
        device = self.model.anchors.device
        lower = training and lowers(self.views.config.train, device)
        images = move(inputs, device)
        assert isinstance(images, Tensor)
        was_training = self.model.training
        self.model.train(training)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=lower):
            maps = [x.cpu() for x in self.model.backbone_maps(images)]
        self.model.train(was_training)
        return maps

    def _kept(self, name: str, make: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        """Return what is in a file, which is made if there is none: by one process, for all."""
        path = self.folder / name
        with _alone(self.folder):
            if not path.exists():
                write_atomically({"content": make()}, path)
        content: Sequence[Any] = load_tensors(path)["content"]
        return content


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine out of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(model: AnyDetector, views: AugmentedViews) -> str:
    """Return what tells maps from those of other views, or of another backbone."""
    detector, recipe = views.config.detector, views.config.train
    digest = hashlib.sha256()
    facts = (
        torch.__version__,
        lowers(recipe, model.anchors.device),
        (detector.architecture, detector.backbone, detector.input_size, detector.resize),
        [getattr(recipe, name) for name in VIEW_FIELDS],
        views.part,
        views.dataset.digest,
        views.held_out_images and views.held_out_images.digest,
    )
    digest.update(repr(facts).encode())
    for name, value in {"anchors": model.anchors, **model.backbone.state_dict()}.items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
