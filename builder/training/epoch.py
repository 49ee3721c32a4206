"""One epoch of training: for each batch a step, whose gradients are those of its exits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from builder.config.configuration import Config
from builder.modeling.architectures import AnyDetector
from builder.modeling.layers import drop_rate_at, set_drop_rate
from builder.training.batch import Batch
from builder.training.distributed import Processes
from builder.training.losses import assign, exit_loss
from builder.training.optimization import MovingAverage, learning_rate_at, set_learning_rate
from builder.training.precision import lowers
from builder.training.training_log import TrainingLog
from builder.training.views import Views
from serving.core.command_errors import CommandFailed

LOOK_EVERY = 20
"""Steps between two readings of the loss, each of which waits for the device."""


class Diverged(CommandFailed):
    """Error of a training whose loss or weights are no longer finite."""


@dataclass(slots=True)
class Run:
    """State of one run: everything that changes while training."""

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


def train_epoch(
    run: Run,
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
