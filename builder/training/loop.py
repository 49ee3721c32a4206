"""Training loop, one for every configuration, on a CPU or on one or more GPUs.

    OUT/checkpoint.pt   weights to serve (the moving average) and the state to resume from
    OUT/log.jsonl       one line an epoch; a ``validation`` line after a validation
    OUT/tensorboard/    the same and the loss within epochs, if asked for

The checkpoint is replaced atomically after every epoch and all randomness is a function of (seed,
epoch), so a run that is killed at any moment resumes as if it had not been. SIGTERM and Ctrl-C end
a run in the same way. Started by torchrun, processes share each batch and the first one writes;
their normalisation statistics are each its own, as of a batch that is computed in parts.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from builder.config.configuration import PARTS, Config
from builder.config.detector import DetectorConfig
from builder.config.recipe import TrainConfig
from builder.data import AveragePrecision, Dataset, read_dataset
from builder.data.loader import steps_per_epoch
from builder.modeling.architectures import (
    AnyDetector,
    at_size,
    freeze_backbone,
    make_detector,
)
from builder.modeling.checkpoint import (
    load_backbone,
    read_checkpoint,
    save_checkpoint,
    start_from,
)
from builder.modeling.layers import drop_rate_at, set_drop_rate
from builder.training.batch import Batch
from builder.training.distributed import Processes, joined
from builder.training.frozen_features import stored_views
from builder.training.losses import assign, exit_loss
from builder.training.optimization import (
    MovingAverage,
    learning_rate_at,
    make_optimizer,
    set_learning_rate,
)
from builder.training.precision import has_bf16, lowers
from builder.training.training_log import TrainingLog
from builder.training.validation import positives_per_level, validate
from builder.training.views import AugmentedViews, Views
from serving.core.command_errors import CommandFailed, InvalidArgument

CHECKPOINT = "checkpoint.pt"

LOOK_EVERY = 20
"""Steps between two readings of the loss, each of which waits for the device."""

CHANGEABLE = (
    "epochs",
    "micro_batches",
    "validate_every",
    "validation_sizes",
    "validation_split",
    "growing",
)
"""Fields of a recipe that may change when a run is resumed."""

log = logging.getLogger(__name__)


class InvalidRecipe(InvalidArgument):
    """Error of a recipe that cannot train this detector on this data set."""


class Diverged(CommandFailed):
    """Error of a training whose loss or weights are no longer finite."""


@dataclass(slots=True)
class _Run:
    """One run's state: everything that changes while training."""

    model: AnyDetector
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    epoch: int = 0
    """Number of epochs completed."""
    seconds: float = 0.0

    def state(self) -> dict[str, Any]:
        """Return what ``restore`` needs beside the averaged weights."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "num_updates": self.average.num_updates,
            "epoch": self.epoch,
            "seconds": self.seconds,
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Continue from the content ``data`` of a checkpoint file."""
        state = data["resume"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.model.load_state_dict(data["weights"])
        self.average.num_updates = state["num_updates"]
        self.epoch = state["epoch"]
        self.seconds = state["seconds"]


def draw_exits(num_exits: int, count: int | None, random: np.random.Generator) -> list[int]:
    """Return the exits to train in one step, ascending.

    They are all, or the last and ``count - 1`` others.
    """
    if count is None or count >= num_exits:
        return list(range(1, num_exits + 1))
    others = random.choice(np.arange(1, num_exits), size=count - 1, replace=False)
    return [*sorted(others.tolist()), num_exits]


def _train_epoch(
    run: _Run,
    wrapped: nn.Module,
    views: Views,
    steps: int,
    config: Config,
    processes: Processes,
    training_log: TrainingLog,
    bar: tqdm[Any],
) -> dict[str, Any]:
    """Train one epoch and return the line to log. Raises Diverged."""
    recipe, num_exits = config.train, config.detector.num_exits
    torch.manual_seed((run.epoch * processes.count + processes.rank) * 2**32 + recipe.seed)
    random = np.random.default_rng((recipe.seed, run.epoch, 0xE817))
    # Class loss, box loss and how often, by exit.
    sums = torch.zeros(num_exits, 3, device=run.model.anchors.device)
    rate = 0.0
    for index, batches in enumerate(views.steps(run.epoch), start=run.epoch * steps):
        rate = learning_rate_at(index, recipe.epochs * steps, recipe)
        set_learning_rate(run.optimizer, rate)
        set_drop_rate(run.model, drop_rate_at(index, recipe.epochs * steps, recipe.drop_block))
        exits = draw_exits(num_exits, recipe.exits_per_step, random)
        run.optimizer.zero_grad(set_to_none=True)
        before = sums[-1, :2].clone()
        _add_gradients(run.model, wrapped, batches, exits, config, processes, sums)
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip_norm)
        run.optimizer.step()
        run.average.update()
        bar.update()
        if index % LOOK_EVERY == 0:
            classes, boxes = processes.sum(sums[-1, :2] - before).tolist()
            bar.set_postfix(epoch=run.epoch + 1, loss=f"{classes + boxes:.3f}", refresh=False)
            for name, value in (("class", classes), ("box", boxes)):
                training_log.plot(f"step/{name}_loss_of_last_exit", value, index)
            training_log.plot("step/learning_rate", rate, index)
    means = processes.sum(sums[:, :2].contiguous()) / sums[:, 2:].clamp(min=1)
    # The loss tells of the weights before a step, so not of what the last one made of them.
    weights = run.model.state_dict().values()
    if not all(value.isfinite().all() for value in (means, *weights)):
        raise Diverged(
            f"the loss or a weight of epoch {run.epoch + 1} is not finite: lower the learning rate"
        )
    return {
        "epoch": run.epoch + 1,
        "learning_rate": rate,
        "class_loss": [round(value, 4) for value in means[:, 0].tolist()],
        "box_loss": [round(value, 4) for value in means[:, 1].tolist()],
    }


def _add_gradients(
    model: AnyDetector,
    wrapped: nn.Module,
    batches: Sequence[Batch],
    exits: Sequence[int],
    config: Config,
    processes: Processes,
    sums: torch.Tensor,
) -> None:
    """Run forward and backward over this process's part of a batch, in micro-batches.

    Adds each exit's losses to ``sums``. Gradients are those of the whole batch when this returns.
    """
    recipe, device = config.train, model.anchors.device
    lower = lowers(recipe, device)
    parts = [batch.to(device) for batch in batches]
    anchors = model.anchors
    if (size := parts[0].input_size) != config.detector.input_size:
        anchors = model.anchors_at(size).to(device)
    num_classes = len(config.detector.classes)
    targets = [part.targets or assign(anchors, part.truths, num_classes) for part in parts]
    positives = torch.tensor(float(sum(len(of_part.rows) for of_part in targets)), device=device)
    count = max(1.0, processes.sum(positives).item())
    for number, (part, of_part) in enumerate(zip(parts, targets, strict=True), start=1):
        is_last = number == len(parts)
        # Gradients are exchanged once, with those of all micro-batches in them.
        waits = not is_last and isinstance(wrapped, nn.parallel.DistributedDataParallel)
        with wrapped.no_sync() if waits else nullcontext():
            with torch.autocast(device.type, torch.bfloat16, enabled=lower):
                outputs = wrapped(part.inputs, exits)
            losses = {
                depth: exit_loss(logits, deltas, of_part, recipe, count)
                for depth, (logits, deltas) in outputs.items()
            }
            terms = [of.classes + recipe.box_weight * of.boxes for of in losses.values()]
            # Gradients are averaged over processes.
            (torch.stack(terms).sum() * processes.count).backward()
        for depth, of in losses.items():
            sums[depth - 1, :2] += torch.stack([of.classes, of.boxes]).detach()
            sums[depth - 1, 2] += is_last


def _validation_line(epoch: int, results: Mapping[int, AveragePrecision]) -> dict[str, Any]:
    return {"epoch": epoch, "validation": _by_exit(results)}


def _by_exit(results: Mapping[int, AveragePrecision]) -> dict[str, list[float]]:
    return {
        name: [round(getattr(result, name), 4) for result in results.values()]
        for name in ("ap", "ap50")
    }


def _validate(
    model: AnyDetector, held_out: Dataset, views: Views, recipe: TrainConfig, epoch: int
) -> Any:
    """Return the line to log: AP by exit at the detector's input size.

    Of a recipe with sizes to validate at, it is AP at the largest of them, and ``by_size``.
    """
    if not recipe.validation_sizes:
        return _validation_line(epoch, validate(model, held_out, views.held_out()))
    by_size = {
        side: _by_exit(validate(at_size(model, (side, side)), held_out))
        for side in sorted(recipe.validation_sizes)
    }
    return {"epoch": epoch, "validation": by_size[max(by_size)], "by_size": by_size}


def _check(
    config: Config, dataset: Dataset, held_out: Dataset | None, processes: Processes
) -> None:
    """Raise InvalidRecipe if the recipe cannot train this detector on these data sets."""
    recipe = config.train
    num_parts = processes.count * recipe.micro_batches
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
            f"a batch of {recipe.batch_size} cannot be shared by {processes.count} processes in "
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


def _check_normalisation(model: AnyDetector, config: Config, device: torch.device) -> None:
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


def read_split(recipe: TrainConfig, data: Path, split: str, bad_annotations: str) -> Dataset:
    """Read a split of the recipe's data set and log what is left out. Raises DatasetError."""
    dataset = read_dataset(recipe.dataset, data, split, bad_annotations)
    for line in dataset.bad:
        log.warning("skipped: %s", line)
    return dataset


def digests(dataset: Dataset, held_out: Dataset | None) -> dict[str, str | None]:
    """Return what a checkpoint records of the images that it was trained and measured on."""
    return {"train": dataset.digest, "validation": held_out.digest if held_out else None}


def train(
    config: Config,
    data: Path,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    initial: Path | None = None,
    command: str = "",
    bad_annotations: str = "skip",
    classes_of_data: bool = False,
    tensorboard: bool = False,
    progress: bool = True,
    backbone: Path | None = None,
    features: Path | None = None,
) -> Path:
    """Train a detector and return the path of its checkpoint.

    It starts from the weights in the checkpoint ``initial``, or from those of the backbone alone in
    ``backbone``, or from random ones. With ``resume`` an existing checkpoint in ``out`` is
    continued. ``command`` is kept in the metadata, to say how the weights were made. With
    ``classes_of_data`` the detector is made for the classes of the data set, whatever its own are;
    without ``progress`` there is no bar, and positive anchors are not counted. What a backbone that
    learns nothing makes of the images is kept in the folder ``features``, if there is one, for
    trainings that differ in what follows it. Raises
    CheckpointError, DatasetError, DeviceError, InvalidRecipe, Diverged, OSError, and
    KeyboardInterrupt when stopped; the checkpoint then holds the last whole epoch.
    """
    recipe, path = config.train, out / CHECKPOINT
    if path.exists() and not resume:
        raise InvalidRecipe(f"{path} is there: --resume goes on with it, another --out starts anew")
    with joined(device) as (processes, own):
        if not processes.is_first:
            log.setLevel(logging.ERROR)  # what the first one says is said once
        torch.manual_seed(recipe.seed)
        dataset = read_split(recipe, data, recipe.split, bad_annotations)
        if classes_of_data:
            config = replace(config, detector=replace(config.detector, classes=dataset.classes))
        held_out = (
            read_split(recipe, data, recipe.validation_split, bad_annotations)
            if recipe.validation_split
            else None
        )
        _check(config, dataset, held_out, processes)
        metadata: dict[str, Any] = {
            "command": command,
            "train": recipe.to_dict(),
            "data": digests(dataset, held_out),
        }
        if progress:
            positives = positives_per_level(config.detector, dataset)
            log.info("%d images, positives by level: %s", len(dataset.samples), positives)
            metadata["positives_per_level"] = list(positives)
        model = make_detector(config.detector)
        if initial is not None:
            start_from(model, initial)
        if backbone is not None:
            load_backbone(model, backbone)
        try:
            freeze_backbone(model, recipe.frozen_stages, recipe.frozen_norms)
            if recipe.backbone_learning_rate_ratio == 0:
                model.backbone.requires_grad_(False)  # nothing is computed for nothing
            for side in {*recipe.input_sizes, *recipe.validation_sizes}:
                model.anchors_at((side, side))
        except ValueError as error:
            raise InvalidRecipe(str(error)) from error
        if recipe.autocast and not has_bf16(own):
            log.info("float32 throughout: this processor does not multiply bfloat16")
        model = model.to(own, memory_format=torch.channels_last).train()
        num_images = min(recipe.batch_size, len(dataset.samples))
        num_images //= processes.count * recipe.micro_batches
        if num_images == 1:
            _check_normalisation(model, config, own)
        optimizer = make_optimizer(model, recipe, model.backbone)
        run = _Run(model, optimizer, MovingAverage(model, recipe.ema_decay))
        augmented = AugmentedViews(
            config, dataset, held_out, part=(processes.rank, processes.count)
        )
        views = augmented if features is None else stored_views(features, model, augmented)
        out.mkdir(parents=True, exist_ok=True)
        if path.exists():
            stored = read_checkpoint(path)
            _check_same(stored, config, metadata, path)
            run.restore(stored)
            log.info("resuming after epoch %d", run.epoch)
        steps = steps_per_epoch(len(dataset.samples), recipe)
        _run_epochs(
            run, views, steps, held_out, config, processes, path, metadata, tensorboard, progress
        )
        log.info("wrote %s", path)
    return path


def config_of(checkpoint: Mapping[str, Any]) -> Config:
    """Return the configuration, detector and recipe, of the run in ``checkpoint``.

    Raises KeyError, TypeError and ValueError for what is no run of this version.
    """
    return Config(
        DetectorConfig.from_dict(checkpoint["detector"]),
        TrainConfig.from_dict(checkpoint["metadata"]["train"]),
    )


def _check_same(
    stored: Mapping[str, Any], config: Config, metadata: Mapping[str, Any], path: Path
) -> None:
    """Raise InvalidRecipe if the run in ``stored`` would go on as another one."""
    if stored["resume"] is None:
        raise InvalidRecipe(f"{path} is no run: start from it with --init")
    before = stored["metadata"]
    try:
        trained = config_of(stored)
        data, epochs = before["data"]["train"], before["epochs"]
    except (KeyError, TypeError, ValueError) as error:
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


def _run_epochs(
    run: _Run,
    views: Views,
    steps: int,
    held_out: Dataset | None,
    config: Config,
    processes: Processes,
    path: Path,
    metadata: dict[str, Any],
    tensorboard: bool,
    progress: bool,
) -> None:
    """Train the epochs that are left, and write a checkpoint after each."""
    recipe = config.train
    done = run.epoch * steps
    is_partial = (recipe.exits_per_step or config.detector.num_exits) < config.detector.num_exits
    wrapped = processes.wrap(run.model, is_partial=is_partial)
    training_log = TrainingLog(path.parent, processes, run.epoch, done, tensorboard)
    quiet = not processes.is_first
    total, silent = recipe.epochs * steps, quiet or not progress
    with tqdm(total=total, initial=done, mininterval=5, disable=silent) as bar:
        while run.epoch < recipe.epochs:
            started = time.monotonic()
            line = _train_epoch(run, wrapped, views, steps, config, processes, training_log, bar)
            run.epoch += 1
            run.seconds += time.monotonic() - started
            if quiet:
                continue
            training_log.write({**line, "seconds": round(run.seconds, 1)})
            metadata.update(epochs=run.epoch, seconds=round(run.seconds, 1))
            curves = {name: line[name] for name in ("class_loss", "box_loss")}
            last = run.epoch == recipe.epochs
            due = recipe.validate_every and run.epoch % recipe.validate_every == 0
            if held_out is not None and (last or due):
                validation = _validate(run.average.model, held_out, views, recipe, run.epoch)
                training_log.write(validation)
                log.info("%s", validation)
                metadata["validation"] = {"split": recipe.validation_split, **validation}
                curves.update(validation["validation"])
            for name, values in curves.items():
                for depth, value in enumerate(values, start=1):
                    # At the last step: what is resumed takes back all from the next one on.
                    training_log.plot(f"{name}/exit_{depth}", value, run.epoch * steps - 1)
            weights = run.average.model.state_dict()
            save_checkpoint(path, config.detector, weights, metadata, run.state())
    training_log.close()
