"""The training loop: one for every configuration, on a CPU or a GPU.

    OUT/checkpoint.pt   weights to serve (the moving average) and the state to resume from
    OUT/log.jsonl       one line an epoch; a ``validation`` line after a validation

The checkpoint is replaced atomically after every epoch and all randomness is a function of (seed,
epoch), so a run that is killed at any moment resumes as if it had not been. SIGTERM and Ctrl-C end
a run in the same way.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from builder.config import Config, DetectorConfig, TrainConfig, replace
from builder.data import DATASETS, AveragePrecision, Dataset, Detections, average_precision
from builder.data.augment import Example, letterbox
from builder.data.loader import epoch_batches, steps_per_epoch
from builder.losses import assign, exit_loss, total_loss
from builder.modeling.anchors import anchors_per_level
from builder.modeling.checkpoint import read_checkpoint, save_checkpoint, start_from
from builder.modeling.detector import Detector
from builder.modeling.layers import drop_rate_at, set_drop_rate
from serving.core.letterbox import fit

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"

log = logging.getLogger(__name__)


def learning_rate_at(step: int, num_steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine down to the final share of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    floor = config.final_learning_rate_ratio
    return config.learning_rate * (
        floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
    )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Convolution kernels decay; biases and normalisation scales do not."""
    kernels = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer named in the recipe."""
    groups = parameter_groups(model, config.weight_decay)
    makers = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=config.learning_rate, fused=True),
        "sgd": lambda: torch.optim.SGD(
            groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True
        ),
    }
    return makers[config.optimizer]()


class MovingAverage:
    """An exponential moving average of a model's weights and normalisation statistics.

    The decay grows with the number of updates as (1 + n) / (10 + n) up to its value, so that the
    first weights do not linger.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model: Any = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards ``model``; integer buffers are copied."""
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        pairs = list(
            zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
        )
        floats = [(average, value) for average, value in pairs if value.is_floating_point()]
        averages, values = map(list, zip(*floats, strict=True))
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in pairs:
            if not value.is_floating_point():
                average.copy_(value)


def draw_exits(num_exits: int, count: int | None, random: np.random.Generator) -> list[int]:
    """The exits to train in one step: all, or the last and ``count - 1`` others, ascending."""
    if count is None or count >= num_exits:
        return list(range(1, num_exits + 1))
    others = random.choice(np.arange(1, num_exits), size=count - 1, replace=False)
    return [*sorted(others.tolist()), num_exits]


def positives_per_level(config: DetectorConfig, dataset: Dataset) -> tuple[int, ...]:
    """Positive anchors at each level over a data set without augmentation: a level without any is
    never trained to find anything."""
    anchors = Detector(config).anchors
    counts = np.zeros(len(config.levels), dtype=np.int64)
    bounds = np.cumsum(anchors_per_level(config))
    for sample in dataset.samples:
        example = letterbox(sample, config.input_size)
        targets = assign(anchors, *_truth([example], anchors.device), len(config.classes))
        levels = np.searchsorted(bounds, targets.rows.numpy(), side="right")
        counts += np.bincount(levels, minlength=len(config.levels))
    return tuple(counts.tolist())


def _truth(examples: Sequence[Example], device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes and labels of each example as tensors."""
    boxes = [torch.from_numpy(example.boxes_xyxy).to(device) for example in examples]
    labels = [torch.from_numpy(example.labels).to(device) for example in examples]
    return boxes, labels


def _images(examples: Sequence[Example], device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8."""
    return torch.from_numpy(np.stack([example.image for example in examples])).to(device)


@torch.inference_mode()
def validate(
    detector: Detector, dataset: Dataset, batch_size: int = 8
) -> dict[int, AveragePrecision]:
    """AP of every exit on letterboxed images, through torch in float32.

    For choosing between candidates; published figures come from the exported segments.
    """
    config = detector.config
    device = detector.anchors.device
    input_height, input_width = config.input_size
    found: dict[int, list[Detections]] = {k: [] for k in range(1, config.num_exits + 1)}
    was_training = detector.training
    detector.eval()
    for start in range(0, len(dataset.samples), batch_size):
        samples = dataset.samples[start : start + batch_size]
        examples = [letterbox(sample, config.input_size) for sample in samples]
        for depth, outputs in detector(_images(examples, device)).items():
            boxes, scores, labels, counts = (
                tensor.cpu().numpy() for tensor in detector.postprocess(outputs)
            )
            for row, sample in enumerate(samples):
                height, width = sample.image.shape[:2]
                placement = fit(width, height, input_width, input_height)
                count = counts[row]
                found[depth].append(
                    Detections(
                        placement.to_original(boxes[row, :count]),
                        scores[row, :count],
                        labels[row, :count].astype(np.int64),
                    )
                )
    detector.train(was_training)
    return {depth: average_precision(dataset, rows) for depth, rows in found.items()}


@dataclass(slots=True)
class _Run:
    """Everything that changes while training."""

    model: Detector
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    epoch: int = 0
    """Epochs completed."""
    seconds: float = 0.0

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs beside the averaged weights."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "num_updates": self.average.num_updates,
            "epoch": self.epoch,
            "seconds": self.seconds,
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Continue from a checkpoint file."""
        state = data["resume"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.model.load_state_dict(data["weights"])
        self.average.num_updates = state["num_updates"]
        self.epoch = state["epoch"]
        self.seconds = state["seconds"]


def _train_epoch(run: _Run, dataset: Dataset, config: Config, bar: tqdm[Any]) -> dict[str, Any]:
    """One pass over the data; returns the line to log."""
    recipe, model = config.train, run.model
    device = model.anchors.device
    num_exits = config.detector.num_exits
    weights = recipe.exit_weights or (1.0,) * num_exits
    steps = steps_per_epoch(len(dataset.samples), recipe.batch_size)
    random = np.random.default_rng((recipe.seed, run.epoch, 0xE817))
    torch.manual_seed(recipe.seed * 1_000_003 + run.epoch)  # for DropBlock
    sums = torch.zeros(num_exits, 3)  # class loss, box loss, steps
    rate = 0.0
    batches = epoch_batches(dataset, config.detector.input_size, recipe, run.epoch)
    for index, examples in enumerate(batches):
        step, num_steps = run.epoch * steps + index, recipe.epochs * steps
        rate = learning_rate_at(step, num_steps, recipe)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        set_drop_rate(model, drop_rate_at(step, num_steps, recipe.drop_block))
        exits = draw_exits(num_exits, recipe.exits_per_step, random)
        targets = assign(model.anchors, *_truth(examples, device), len(config.detector.classes))
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.autocast):
            outputs = model(_images(examples, device), exits)
        losses = {
            depth: exit_loss(logits, deltas, targets, recipe)
            for depth, (logits, deltas) in outputs.items()
        }
        loss = total_loss(losses, recipe, weights)
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        run.optimizer.step()
        run.average.update(model)
        for depth, part in losses.items():
            sums[depth - 1] += torch.tensor([part.classes.item(), part.boxes.item(), 1.0])
        bar.update()
        bar.set_postfix(epoch=run.epoch + 1, loss=f"{loss.item():.3f}", refresh=False)
    means = sums[:, :2] / sums[:, 2:].clamp(min=1)
    return {
        "epoch": run.epoch + 1,
        "learning_rate": rate,
        "class_loss": [round(value, 4) for value in means[:, 0].tolist()],
        "box_loss": [round(value, 4) for value in means[:, 1].tolist()],
    }


def _validation_line(epoch: int, results: Mapping[int, AveragePrecision]) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "validation": {
            name: [round(getattr(result, name), 4) for result in results.values()]
            for name in ("ap", "ap50")
        },
    }


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def train(
    config: Config,
    data: Path,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    initial: Path | None = None,
    command: str = "",
) -> Path:
    """Train a detector and return the path of its checkpoint.

    It starts from the weights in the checkpoint ``initial``, or from random ones. With ``resume``
    an existing checkpoint in ``out`` is continued. ``command`` is kept in the
    metadata, to say how the weights were made. Raises KeyboardInterrupt when stopped; the
    checkpoint then holds the last whole epoch.
    """
    recipe = config.train
    torch.manual_seed(recipe.seed)
    dataset = DATASETS[recipe.dataset](data, recipe.split)
    for dropped in dataset.dropped:
        log.warning("dropped: %s", dropped)
    if dataset.classes != config.detector.classes:
        raise ValueError(f"the detector's classes are not those of {recipe.dataset}")
    if recipe.exit_weights and len(recipe.exit_weights) != config.detector.num_exits:
        raise ValueError("exit_weights must name every exit")
    positives = positives_per_level(config.detector, dataset)
    log.info("%d images, positives at each level: %s", len(dataset.samples), positives)

    model = Detector(config.detector)
    if initial is not None:
        start_from(model, initial)
    model = model.to(device, memory_format=torch.channels_last).train()
    run = _Run(model, make_optimizer(model, recipe), MovingAverage(model, recipe.ema_decay))
    path = out / CHECKPOINT
    out.mkdir(parents=True, exist_ok=True)
    if resume and path.exists():
        run.restore(read_checkpoint(path))
        log.info("resuming after epoch %d", run.epoch)

    metadata: dict[str, Any] = {
        "command": command,
        "train": recipe.to_dict(),
        "positives_per_level": list(positives),
    }
    steps = steps_per_epoch(len(dataset.samples), recipe.batch_size)
    with tqdm(total=recipe.epochs * steps, initial=run.epoch * steps, mininterval=5) as bar:
        while run.epoch < recipe.epochs:
            started = time.monotonic()
            line = _train_epoch(run, dataset, config, bar)
            run.epoch += 1
            run.seconds += time.monotonic() - started
            _append(out / LOG, {**line, "seconds": round(run.seconds, 1)})
            metadata.update(epochs=run.epoch, seconds=round(run.seconds, 1))
            last = run.epoch == recipe.epochs
            due = recipe.validate_every and run.epoch % recipe.validate_every == 0
            if recipe.validation_split and (last or due):
                held_out = DATASETS[recipe.dataset](data, recipe.validation_split)
                results = validate(run.average.model, held_out)
                validation = _validation_line(run.epoch, results)
                _append(out / LOG, validation)
                log.info("%s", validation)
                metadata["validation"] = {"split": recipe.validation_split, **validation}
            weights = run.average.model.state_dict()
            save_checkpoint(path, config.detector, weights, metadata, run.state())
    return path


def override(config: Config, assignments: Sequence[str]) -> Config:
    """Apply ``detector.FIELD=JSON`` and ``train.FIELD=JSON`` assignments. Raises ValueError."""
    for assignment in assignments:
        target, _, text = assignment.partition("=")
        part, _, name = target.partition(".")
        if part not in ("detector", "train"):
            raise ValueError(f"expected detector.FIELD=JSON or train.FIELD=JSON: {assignment!r}")
        record = getattr(config, part)
        changed = type(record).from_dict({**asdict(record), name: json.loads(text)})
        config = replace(config, **{part: changed})
    return config


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def run_until_signal(
    config: Config,
    data: Path,
    out: Path,
    device: str = "cpu",
    resume: bool = False,
    *,
    initial: Path | None = None,
    command: str = "",
) -> int:
    """``train`` for a command line: SIGTERM and Ctrl-C stop it. Returns the exit status, 130 for a
    run that was stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        path = train(
            config, data, out, device=device, resume=resume, initial=initial, command=command
        )
    except KeyboardInterrupt:
        log.info("stopped; --resume continues after the last whole epoch")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    log.info("wrote %s", path)
    return 0
