"""Layouts: what the outputs of a detector mean, as a table.

A layout says of every output which columns it has and on which axis, in which convention boxes
are, what must be done to scores, and whether duplicates have been suppressed already. Everything
that reads outputs interprets this table; a layout more is a record more.

Letters in shapes: B images, N rows (candidates or boxes), C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serving.core.letterbox import PLACEMENTS

BOXES, SCORES, LABELS, OBJECTNESS = "boxes", "scores", "labels", "objectness"
"""Parts of outputs: (B, N, 4); (B, N, C), or (B, N) beside labels; (B, N); (B, N, 1)."""

CLASSES = -1
"""Number of columns of a part that has one for each class."""

BOX_ORDERS = ("xyxy", "yxyx", "xywh", "cxcywh")
"""Conventions of boxes: two corners, x or y first; a corner and the size; the centre and the
size."""
UNITS = ("pixels", "shares")
"""What boxes are measured in: pixels of the input, or shares of its width and height."""
ACTIVATIONS = ("none", "sigmoid", "softmax")
"""What makes probabilities of scores; none: they are."""
COLORS = ("rgb", "bgr")


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an upright RGB image before the network sees it.

    ``(pixel * scale - mean) / std``, by channel in the order of ``color``.
    """

    resize: str = "letterbox"
    """How an image becomes the input: a key of ``letterbox.PLACEMENTS``. What a letterbox pads
    with is grey 114, at the right or at the bottom."""
    color: str = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.resize not in PLACEMENTS or self.color not in COLORS:
            raise ValueError(f"there is no {self.resize} or {self.color}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise ValueError("mean and deviation are three numbers each, and no deviation is 0")

    def __str__(self) -> str:
        mean, std = (", ".join(f"{x:g}" for x in values) for values in (self.mean, self.std))
        return f"{self.resize}, {self.color}, ({self.scale:.6g} * pixel - [{mean}]) / [{std}]"


@dataclass(frozen=True)
class Output:
    """One output: its parts side by side on one axis."""

    columns: tuple[tuple[str, int], ...]
    """Parts in their order, with their numbers of columns; of a part alone 0: it has no such
    axis."""
    axis: int = 2
    """Axis of the columns: 2, or 1 where they come before the rows."""
    names: tuple[str, ...] = ()
    """What the output is called by those who export it, in part."""

    def shape(self, num_classes: int, rows: int) -> tuple[int, ...]:
        """Return the shape for one image."""
        width = sum(num_classes if count == CLASSES else count for _, count in self.columns)
        if not width:
            return (1, rows)
        return (1, rows, width) if self.axis == 2 else (1, width, rows)

    def __str__(self) -> str:
        fixed = sum(count for _, count in self.columns if count != CLASSES)
        classes = any(count == CLASSES for _, count in self.columns)
        width = "C" if classes and not fixed else f"{fixed}+C" if classes else str(fixed)
        if width == "0":
            return "[B, N]"
        return f"[B, N, {width}]" if self.axis == 2 else f"[B, {width}, N]"


@dataclass(frozen=True)
class Layout:
    """A row of the table."""

    name: str
    about: str
    """Who exports so, in a few words."""
    outputs: tuple[Output, ...]
    boxes: str = "xyxy"
    units: str = "pixels"
    activation: str = "none"
    grids: tuple[int, ...] = ()
    """Strides of the grids that have one row for each cell, from the finest; empty: rows are
    others."""
    offsets: bool = False
    """Whether boxes are offsets in cells of the grids."""
    for_one_image: bool = False
    """Whether outputs have no axis of images."""
    by_name: bool = False
    """Whether shapes and values do not tell it from others, so that all outputs must be called as
    in the table."""
    from_one: bool = False
    """Whether classes are numbered from 1, for 0 is the background."""
    suppressed: bool = False
    """Whether duplicates are suppressed, or do not arise, in the graph."""
    last_is_background: bool = False
    """Whether scores have a column more, the last, for no class."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """What is usual for it; options override it."""

    def __str__(self) -> str:
        shapes = ", ".join(f"{'/'.join(part for part, _ in x.columns)} {x}" for x in self.outputs)
        return f"{self.name} ({shapes})"

    def changed(self, changes: Mapping[str, str]) -> Layout:
        """Return the layout with other ``boxes``, ``units`` or ``activation``."""
        facts: dict[str, Any] = dict(changes)
        return replace(self, **facts)

    @property
    def is_labelled(self) -> bool:
        """Whether each row has one score and a label, instead of a score for each class."""
        return any(part == LABELS for output in self.outputs for part, _ in output.columns)


_UNIT = 1 / 255
_PLAIN = Preprocessing("stretch", scale=_UNIT)
_IMAGENET = Preprocessing(
    "stretch", scale=_UNIT, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
_ULTRALYTICS = Preprocessing("letterbox-centre", scale=_UNIT)
_YOLOX = Preprocessing(color="bgr")
_YOLOX_STRIDES = (8, 16, 32)

_TABLE = (
    Layout(
        name="boxes-scores",
        about="boxes and a probability for each class: SSD, RetinaNet and others, decoded",
        outputs=(
            Output(((BOXES, 4),), names=("box",)),
            Output(((SCORES, CLASSES),), names=("score", "class", "conf", "prob")),
        ),
    ),
    Layout(
        name="detr",
        about="RT-DETR and D-FINE as Transformers exports them: logits for a sigmoid",
        outputs=(
            Output(((SCORES, CLASSES),), names=("logit", "score", "class")),
            Output(((BOXES, 4),), names=("box",)),
        ),
        boxes="cxcywh",
        units="shares",
        activation="sigmoid",
        suppressed=True,
        preprocessing=_PLAIN,
    ),
    Layout(
        name="detr-softmax",
        about="DETR and YOLOS: logits for a softmax, of which the last is for no object",
        outputs=(
            Output(((SCORES, CLASSES),), names=("logit", "score", "class")),
            Output(((BOXES, 4),), names=("box",)),
        ),
        boxes="cxcywh",
        units="shares",
        activation="softmax",
        suppressed=True,
        last_is_background=True,
        preprocessing=_IMAGENET,
    ),
    Layout(
        name="rf-detr",
        about="RF-DETR, by their names: logits for a sigmoid",
        outputs=(
            Output(((BOXES, 4),), names=("dets",)),
            Output(((SCORES, CLASSES),), names=("labels",)),
        ),
        by_name=True,
        boxes="cxcywh",
        units="shares",
        activation="sigmoid",
        suppressed=True,
        preprocessing=_IMAGENET,
    ),
    Layout(
        name="rtdetr-rows",
        about="RT-DETR of Ultralytics: rows of box, score, class",
        outputs=(Output(((BOXES, 4), (SCORES, 1), (LABELS, 1))),),
        boxes="cxcywh",
        units="shares",
        suppressed=True,
        preprocessing=_PLAIN,
    ),
    Layout(
        name="rtdetr-scores",
        about="RT-DETR of Ultralytics before 8.4: a probability for each class",
        outputs=(Output(((BOXES, 4), (SCORES, CLASSES))),),
        boxes="cxcywh",
        units="shares",
        suppressed=True,
        preprocessing=_PLAIN,
    ),
    Layout(
        name="yolov8",
        about="YOLOv8, YOLO11 and others of Ultralytics",
        outputs=(Output(((BOXES, 4), (SCORES, CLASSES)), axis=1),),
        boxes="cxcywh",
        preprocessing=_ULTRALYTICS,
    ),
    Layout(
        name="yolov5",
        about="YOLOv5, YOLOv6 and YOLOv7",
        outputs=(Output(((BOXES, 4), (OBJECTNESS, 1), (SCORES, CLASSES))),),
        boxes="cxcywh",
        preprocessing=_ULTRALYTICS,
    ),
    Layout(
        name="yolox",
        about="YOLOX as its own tool exports it: offsets in grids of strides 8, 16, 32",
        outputs=(Output(((BOXES, 4), (OBJECTNESS, 1), (SCORES, CLASSES))),),
        boxes="cxcywh",
        grids=_YOLOX_STRIDES,
        offsets=True,
        preprocessing=_YOLOX,
    ),
    Layout(
        name="yolox-decoded",
        about="YOLOX with its boxes decoded",
        outputs=(Output(((BOXES, 4), (OBJECTNESS, 1), (SCORES, CLASSES))),),
        boxes="cxcywh",
        grids=_YOLOX_STRIDES,
        preprocessing=_YOLOX,
    ),
    Layout(
        name="end-to-end",
        about="YOLOv10, YOLO26 and others that end in rows of box, score, class",
        outputs=(Output(((BOXES, 4), (SCORES, 1), (LABELS, 1))),),
        suppressed=True,
        preprocessing=_ULTRALYTICS,
    ),
    Layout(
        name="boxes-labels-scores",
        about="RT-DETR, D-FINE and DEIM as their authors export them",
        outputs=(
            Output(((LABELS, 0),), names=("label", "class")),
            Output(((BOXES, 4),), names=("box",)),
            Output(((SCORES, 0),), names=("score", "conf", "prob")),
        ),
        suppressed=True,
        preprocessing=_PLAIN,
    ),
    Layout(
        name="torchvision",
        about="detectors of torchvision, of one image, whose class 0 is the background",
        outputs=(
            Output(((BOXES, 4),), names=("box",)),
            Output(((LABELS, 0),), names=("label", "class")),
            Output(((SCORES, 0),), names=("score", "conf", "prob")),
        ),
        for_one_image=True,
        from_one=True,
        suppressed=True,
        preprocessing=_PLAIN,
    ),
    Layout(
        name="tensorflow",
        about="TensorFlow's detectors, by their names, whose class 0 is the background",
        outputs=(
            Output(((BOXES, 4),), names=("detection_boxes",)),
            Output(((LABELS, 0),), names=("detection_classes",)),
            Output(((SCORES, 0),), names=("detection_scores",)),
        ),
        by_name=True,
        from_one=True,
        boxes="yxyx",
        units="shares",
        suppressed=True,
        preprocessing=Preprocessing("stretch"),
    ),
    Layout(
        name="paddle",
        about="PaddleDetection: rows of class, score, box, of one image",
        outputs=(Output(((LABELS, 1), (SCORES, 1), (BOXES, 4))),),
        for_one_image=True,
        suppressed=True,
        preprocessing=_PLAIN,
    ),
)

LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in _TABLE}
"""Layouts by name. Where several fit, the order is that in which they are tried."""
