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

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from builder.config.configuration import Config
from builder.config.detector import DetectorConfig
from builder.config.recipe import TrainConfig
from builder.data import AveragePrecision, Dataset, read_dataset
from builder.data.class_names import numbered_as
from builder.data.loader import steps_per_epoch
from builder.modeling.architectures import (
    AnyDetector,
    at_size,
    freeze_backbone,
    make_detector,
)
from builder.modeling.checkpoint import (
    CheckpointError,
    load_backbone,
    read_checkpoint,
    save_checkpoint,
    start_from,
)
from builder.training.distributed import Processes, joined
from builder.training.epoch import Run, train_epoch
from builder.training.frozen_features import stored_views
from builder.training.optimization import MovingAverage, make_optimizer
from builder.training.precision import has_bf16
from builder.training.recipe_checks import (
    InvalidRecipe,
    check_data,
    check_normalisation,
    check_resumed,
)
from builder.training.training_log import TrainingLog
from builder.training.validation import positives_per_level, validate
from builder.training.views import AugmentedViews, Views
from serving.artifacts.folder_locks import only_writer

CHECKPOINT = "checkpoint.pt"

log = logging.getLogger(__name__)


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
    make: Callable[[DetectorConfig], AnyDetector] = make_detector,
    seen: Callable[[AnyDetector, Views], Views] = lambda _, views: views,
) -> Path:
    """Train a detector and return the path of its checkpoint.

    It starts from the weights in the checkpoint ``initial``, or from those of the backbone alone in
    ``backbone``, or from random ones. With ``resume`` an existing checkpoint in ``out`` is
    continued. ``command`` is kept in the metadata, to say how the weights were made. With
    ``classes_of_data`` the detector is made for the classes of the data set, whatever its own are;
    without ``progress`` there is no bar, and positive anchors are not counted. What a backbone that
    learns nothing makes of the images is kept in the folder ``features``, if there is one, for
    trainings that differ in what follows it. ``make`` makes the detector, and ``seen`` turns the
    views that there are into those that it sees. Raises CheckpointError, DatasetError, DeviceError,
    FolderBusy, InvalidRecipe, Diverged, OSError, and KeyboardInterrupt when stopped; the checkpoint
    then holds the last whole epoch.
    """
    recipe, path = config.train, out / CHECKPOINT
    _check_new(path, resume)
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
        check_data(config, dataset, held_out, processes.count)
        metadata: dict[str, Any] = {
            "command": command,
            "train": recipe.to_dict(),
            "data": digests(dataset, held_out),
        }
        if held_out is not None:
            held_out = numbered_as(config.detector.classes, held_out)
        if progress:
            positives = positives_per_level(config.detector, dataset)
            log.info("%d images, positives by level: %s", len(dataset.samples), positives)
            metadata["positives_per_level"] = list(positives)
        model = make(config.detector)
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
            check_normalisation(model, config, own)
        optimizer = make_optimizer(model, recipe, model.backbone)
        run = Run(model, optimizer, MovingAverage(model, recipe.ema_decay))
        augmented = AugmentedViews(
            config, dataset, held_out, part=(processes.rank, processes.count)
        )
        views = seen(
            model, augmented if features is None else stored_views(features, model, augmented)
        )
        out.mkdir(parents=True, exist_ok=True)
        with only_writer(out) if processes.is_first else nullcontext():
            _check_new(path, resume)  # another process may have trained meanwhile
            if path.exists():
                _go_on(run, config, metadata, path)
            steps = steps_per_epoch(len(dataset.samples), recipe)
            _run_epochs(
                run,
                views,
                steps,
                held_out,
                config,
                processes,
                path,
                metadata,
                tensorboard,
                progress,
            )
        log.info("wrote %s", path)
    return path


def _check_new(path: Path, resume: bool) -> None:
    """Raise InvalidRecipe for a run that is there and is not to be gone on with."""
    if path.exists() and not resume:
        raise InvalidRecipe(f"{path} is there: --resume goes on with it, another --out starts anew")


def _go_on(run: Run, config: Config, metadata: Mapping[str, Any], path: Path) -> None:
    """Continue the run in the checkpoint ``path``.

    Raises InvalidRecipe if it would go on as another one, CheckpointError for a damaged one.
    """
    stored = read_checkpoint(path)
    check_resumed(stored, config, metadata, path)
    try:
        run.restore(stored)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged, it cannot be gone on with: {error}") from error
    log.info("resuming after epoch %d", run.epoch)


def _run_epochs(
    run: Run,
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
            line = train_epoch(run, wrapped, views, steps, config, processes, training_log, bar)
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
