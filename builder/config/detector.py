"""The structure of a detector and its post-processing, which a checkpoint carries.

Exporters need nothing else. A field that names something in ``builder.modeling`` is in ``CHOICES``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from builder.config.json_record import JsonRecord
from builder.config.pyramid_graphs import GRAPHS, Graph, Row
from builder.config.rules import (
    FLAG,
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
    "resize": ("letterbox", "letterbox-centre", "stretch"),
    "backbone": ("resnet10", "resnet18", "resnet50", "resnet101", "mobilenet_v2", "amoebanet_d"),
    "conv": ("dense", "separable"),
    "light_head_conv": ("dense", "separable"),
    "activation": ("relu", "swish"),
    "flavour": ("google", "mmdet"),
}
"""Fields of a detector that name something in ``builder.modeling``."""

MODEL_NAME = matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}",
    "1 to 100 letters, digits, '_', '-' and '.', beginning with none of the last two",
)
"""Rule for a model's name, which also names a folder and models in Triton."""

MAX_CANDIDATES = 3840
"""Most candidates before suppression, the largest k of TensorRT's TopK.

Suppression compares every pair of candidates.
"""


MAX_INPUT_SIDE = 8192
"""Most pixels of a side of an input."""
MAX_SIZES = 64
"""Most input sizes of one detector."""
MAX_CHANNELS = 16_384
MAX_STACKS = 64
MAX_CONVS = 64
MAX_BACKBONE_LAYERS = 300
MAX_CLASSES = 100_000
MAX_ANCHOR_SHAPES = 16
MAX_GRAPH_ROWS = 256
# A detector beyond them would only be found to be too large once memory or days have run out.


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


SIZE = several(whole(1, MAX_INPUT_SIDE), 2, 2)

DETECTOR_RULES: dict[str, Rule] = {
    **{name: one_of(choices) for name, choices in CHOICES.items()},
    "name": MODEL_NAME,
    "classes": several(TEXT, 1, MAX_CLASSES),
    "input_size": SIZE,
    "served_sizes": several(SIZE, 0, MAX_SIZES),
    "backbone_width": whole(1, MAX_CHANNELS),
    "backbone_layers": whole(0, MAX_BACKBONE_LAYERS),
    "neck": TEXT,
    "graph": Rule(
        lambda value: isinstance(value, tuple) and len(value) <= MAX_GRAPH_ROWS,
        f"a list of at most {MAX_GRAPH_ROWS} rows",
    ),
    "num_stacks": whole(0, MAX_STACKS),
    "stacks_per_exit": whole(1, MAX_STACKS),
    "plain_exit": FLAG,
    "neck_channels": whole(1, MAX_CHANNELS),
    "head_channels": whole(1, MAX_CHANNELS),
    "head_convs": whole(0, MAX_CONVS),
    "light_exits": whole(0, MAX_STACKS),
    "light_head_channels": whole(1, MAX_CHANNELS),
    "light_head_convs": whole(0, MAX_CONVS),
    "anchor_scale": POSITIVE,
    "anchor_offset": share(),
    "octave_scales": several(POSITIVE, 1, MAX_ANCHOR_SHAPES),
    "aspect_ratios": several(POSITIVE, 1, MAX_ANCHOR_SHAPES),
    "merge_border_side": optional(POSITIVE),
    "merge_iou_threshold": share(),
    "license": TEXT,
    "score_threshold": share(below_one=True),
    "iou_threshold": share(),
    "max_candidates": whole(1, MAX_CANDIDATES),
    "max_detections": whole(1, MAX_CANDIDATES),
}
