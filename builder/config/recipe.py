"""A recipe that trains a detector: data, steps of the optimizer, losses and augmentation."""

from __future__ import annotations

from dataclasses import dataclass

from builder.config.detector import MAX_INPUT_SIDE, MAX_SIZES
from builder.config.json_record import JsonRecord
from builder.config.rules import (
    FLAG,
    NON_NEGATIVE,
    POSITIVE,
    TEXT,
    Rule,
    check,
    one_of,
    optional,
    several,
    share,
    whole,
)

TRAIN_CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "step"),
    "class_loss": ("focal", "soft_focal", "quality_focal"),
    "box_loss": ("giou", "huber"),
}
"""Fields of a recipe that name something in the ``optimization`` or ``losses`` of the training."""


MAX_BATCH = 65_536


@dataclass(frozen=True, slots=True)
class TrainConfig(JsonRecord):
    """One training recipe.

    Batch and learning rate are those of a step of the optimizer, on however many processes it is
    computed.
    """

    dataset: str
    """Data set to train on: a key of ``builder.data.DATASETS``."""
    split: str = "train"
    validation_split: str | None = "val"
    epochs: int = 100
    batch_size: int = 8
    micro_batches: int = 1
    """Number of parts in which each process computes its share of a batch.

    They are computed one after the other and their gradients added up.
    """
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    schedule: str = "cosine"
    """Schedule after the warm-up: cosine, or steps by a tenth after each of ``milestones``."""
    final_learning_rate_ratio: float = 0.01
    """Learning rate at the end of the cosine schedule, as a share of ``learning_rate``."""
    milestones: tuple[int, ...] = ()
    """Epochs after which the step schedule lowers the learning rate."""
    warmup_steps: int = 200
    warmup_ratio: float = 0.0
    """Learning rate at the start of the linear warm-up, as a share of ``learning_rate``."""
    weight_decay: float = 0.05
    """Weight decay, applied to convolution kernels only."""
    momentum: float = 0.9
    """Momentum of the sgd optimizer; others do not read it."""
    clip_norm: float | None = 10.0
    exits_per_step: int | None = None
    """Number of exits that a step trains, all weighing alike.

    None trains every one; n trains the last one and n - 1 others drawn at random.
    """
    class_loss: str = "focal"
    """Class loss: focal, soft_focal or quality_focal.

    soft_focal trains scores towards how certain a label is, quality_focal towards that times how
    well the box fits, beside the best one of its object.
    """
    focal_alpha: float = 0.25
    """Weight of positives in the focal loss, one minus that of negatives; others do not read it."""
    focal_gamma: float = 1.5
    box_loss: str = "giou"
    box_weight: float = 2.0
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, which is what is served.

    With 0 the last weights are.
    """
    drop_block: float = 0.0
    """Rate of DropBlock behind every cell of the neck at the last step; it grows from 0."""
    input_sizes: tuple[int, ...] = ()
    """Sides of square inputs, of which every batch has one, drawn at random.

    Without any, every batch has the detector's input size.
    """
    images_per_epoch: int | None = None
    """Number of images of an epoch, drawn without replacement; None is all of the data set."""
    growing: bool = False
    """Whether a run may go on with a changed data set, as when more of it has been labelled."""
    backbone_learning_rate_ratio: float = 1.0
    """Learning rate of what was trained before, as a share of the others'.

    That is the backbone, of an ssdlite also its heads. With 0 only the others are trained, in half
    the time.
    """
    frozen_stages: int = 0
    """Number of parts of the backbone that are not trained, counted from the image.

    Parts are the stem, then stages of a ResNet, blocks of MobileNetV2 or cells of AmoebaNet-D.
    """
    frozen_norms: bool = False
    """Whether the backbone's normalisation keeps its statistics, scales and shifts."""
    horizontal_flip: bool = True
    vertical_flip: bool = False
    scale_jitter: tuple[float, float] = (0.8, 1.2)
    """Least and greatest zoom; a part is cut out of what is larger than the input."""
    aspect_jitter: float = 0.0
    """Logarithm of the greatest factor by which width over height is changed, either way."""
    brightness_jitter: float = 0.2
    contrast_jitter: float = 0.2
    autocast: bool = True
    """Whether convolutions run in bfloat16, except on a CPU that would emulate it.

    Losses and box arithmetic stay float32.
    """
    validate_every: int = 0
    """Epochs between validations; 0 validates only after the last."""
    validation_sizes: tuple[int, ...] = ()
    """Sides of square inputs to validate at; without any, the detector's input size."""
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, TRAIN_RULES)
        if self.scale_jitter[0] > self.scale_jitter[1]:
            raise ValueError(f"scale_jitter is {self.scale_jitter}, the first is the least")


TRAIN_RULES: dict[str, Rule] = {
    **{name: one_of(choices) for name, choices in TRAIN_CHOICES.items()},
    "dataset": TEXT,
    "split": TEXT,
    "validation_split": optional(TEXT),
    "epochs": whole(1),
    "batch_size": whole(1, MAX_BATCH),
    "micro_batches": whole(1, MAX_BATCH),
    "learning_rate": NON_NEGATIVE,
    "final_learning_rate_ratio": share(),
    "milestones": several(whole(1)),
    "warmup_steps": whole(0),
    "warmup_ratio": share(),
    "weight_decay": NON_NEGATIVE,
    "momentum": share(below_one=True),
    "clip_norm": optional(POSITIVE),
    "exits_per_step": optional(whole(1)),
    "input_sizes": several(whole(32, MAX_INPUT_SIDE), 0, MAX_SIZES),
    "images_per_epoch": optional(whole(1)),
    "growing": FLAG,
    "backbone_learning_rate_ratio": NON_NEGATIVE,
    "frozen_stages": whole(0),
    "frozen_norms": FLAG,
    "aspect_jitter": NON_NEGATIVE,
    "validation_sizes": several(whole(32, MAX_INPUT_SIDE), 0, MAX_SIZES),
    "focal_alpha": share(),
    "focal_gamma": NON_NEGATIVE,
    "box_weight": NON_NEGATIVE,
    "ema_decay": share(below_one=True),
    "drop_block": share(below_one=True),
    "horizontal_flip": FLAG,
    "vertical_flip": FLAG,
    "scale_jitter": several(POSITIVE, 2, 2),
    "brightness_jitter": share(),
    "contrast_jitter": share(),
    "autocast": FLAG,
    "validate_every": whole(0),
    "seed": whole(0, 2**32 - 1),
}
