"""Import of MMDetection's RetinaNet with NAS-FPN, of current and of 1.x versions.

The structure is read off the shapes, so that any width, depth and number of classes is taken. What
their model does differently is part of the configuration: the flavour, anchors without an offset,
an order of anchors in which ratios come before scales (undone here, in the prediction kernels).

A convolution of their head exists once for every level, all copies of one; normalisations are
separate. Their head sits at the end only, so the imported model has one exit, unless exits after
every stack are asked for: those start from copies of its normalisations and have to be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from builder.config.detector import DetectorConfig
from builder.importing.state_dict import (
    Source,
    StateDict,
    WeightsError,
    count_children,
    translate,
)
from builder.modeling.detector import Detector

# What configs/nas_fpn of MMDetection sets, in the terms used here.
OCTAVE_SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
ASPECT_RATIOS = (2.0, 1.0, 0.5)  # width over height; theirs are height over width
ANCHOR_SCALE = 4.0
ANCHOR_OFFSET = 0.0

CELLS = ("gp_64_4", "sum_44_4", "sum_43_3", "sum_34_4", "sum_55_5", "sum_77_7", "gp_75_6")
"""MMDetection's names of the cells of ``GRAPHS["nas_fpn"]``, row by row."""

UNKNOWN_LICENSE = "unknown"
"""Licence of weights that do not say theirs."""

NUM_LEVELS = 5
NORM_FIELDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

# Blocks of each stage and whether they are bottlenecks.
BACKBONES: dict[tuple[tuple[int, ...], bool], str] = {
    ((1, 1, 1, 1), False): "resnet10",
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}


def load_nas_fpn(
    state: StateDict,
    *,
    name: str,
    classes: Sequence[str] | None,
    input_size: tuple[int, int],
    every_exit: bool = False,
    license: str = UNKNOWN_LICENSE,
) -> Detector:
    """Return the detector in a state dict of MMDetection, in eval mode.

    ``classes`` are its class names in order, None if they are not known, which is an error once
    the structure is; ``input_size`` (height, width) is what it will be run at; ``license`` is that
    of the weights. Raises WeightsError, and ValueError for a name, classes or an input size that a
    detector cannot have.
    """
    config = _config(state, name, classes, input_size, every_exit, license)
    detector = Detector(config)
    target = detector.state_dict()
    sources = {
        **{key: Source((key,)) for key in target if key.startswith("backbone.")},
        **dict(_sources(config, state)),
    }
    detector.load_state_dict(translate(state, sources, target))
    return detector.eval()


def _shape(state: StateDict, key: str) -> tuple[int, ...]:
    if key not in state:
        raise WeightsError(f"{key!r} is missing: no RetinaNet with NAS-FPN of MMDetection")
    shape = tuple(state[key].shape)
    if len(shape) != 4:
        raise WeightsError(f"{key!r} has shape {shape}, a kernel has four sides")
    return shape


def class_names(beside: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the class names that a checkpoint carries beside its weights, or None.

    Raises WeightsError for what is no list of names.
    """
    meta = _mapping(beside.get("meta"))
    names = meta.get("CLASSES") or _mapping(meta.get("dataset_meta")).get("classes")
    if not names:
        return None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise WeightsError(f"it calls its classes {names!r}, which is no list of names: give them")
    return tuple(names)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _config(
    state: StateDict,
    name: str,
    classes: Sequence[str] | None,
    input_size: tuple[int, int],
    every_exit: bool,
    license: str,
) -> DetectorConfig:
    width, *_ = _shape(state, "backbone.conv1.weight")
    blocks = tuple(count_children(state, f"backbone.layer{stage}.") for stage in (1, 2, 3, 4))
    backbone = BACKBONES.get((blocks, "backbone.layer1.0.conv3.weight" in state))
    if backbone is None:
        raise WeightsError(f"a backbone with {blocks} blocks in layer1 to layer4 is not known here")
    neck_channels, *_ = _shape(state, "neck.lateral_convs.0.conv.weight")
    num_stacks = count_children(state, "neck.fpn_stages.")
    if not num_stacks:
        raise WeightsError("'neck.fpn_stages.0' is missing: the neck is no NAS-FPN")
    head_channels, *_ = _shape(state, "bbox_head.cls_convs.0.0.conv.weight")
    num_deltas, *_ = _shape(state, "bbox_head.retina_reg.weight")
    num_logits, *_ = _shape(state, "bbox_head.retina_cls.weight")
    num_anchors = len(OCTAVE_SCALES) * len(ASPECT_RATIOS)
    if num_deltas != 4 * num_anchors:
        raise WeightsError(
            f"'bbox_head.retina_reg.weight' has {num_deltas} outputs, "
            f"{num_anchors} anchors need {4 * num_anchors}"
        )
    if classes is None:
        raise WeightsError(
            f"the names of its {num_logits // num_anchors} classes are not in it: give them"
        )
    if num_logits != num_anchors * len(classes):
        raise WeightsError(
            f"'bbox_head.retina_cls.weight' has {num_logits} outputs, "
            f"{num_anchors} anchors of {len(classes)} classes need {num_anchors * len(classes)}"
        )
    return DetectorConfig(
        name=name,
        classes=tuple(classes),
        input_size=input_size,
        backbone=backbone,
        backbone_width=width,
        neck="nas_fpn",
        flavour="mmdet",
        num_stacks=num_stacks,
        stacks_per_exit=1 if every_exit else num_stacks,
        neck_channels=neck_channels,
        head_channels=head_channels,
        head_convs=count_children(state, "bbox_head.cls_convs.0."),
        anchor_scale=ANCHOR_SCALE,
        anchor_offset=ANCHOR_OFFSET,
        octave_scales=OCTAVE_SCALES,
        aspect_ratios=ASPECT_RATIOS,
        max_candidates=1000,
        license=license,
    )


def _sources(config: DetectorConfig, state: StateDict) -> Iterator[tuple[str, Source]]:
    """Yield the key map of neck and head: a key of the detector, and where its values are."""
    for index in range(3):
        yield from _projection(f"neck_input.laterals.{index}", f"neck.lateral_convs.{index}")
    for index in range(NUM_LEVELS - 3):
        yield from _projection(f"neck_input.coarser.{index}", f"neck.extra_downsamples.{index}.0")
    # In 1.x the convolution of a cell is called conv_out and has no bias.
    conv = "conv_out" if any(".conv_out." in key for key in state) else "out_conv"
    no_bias = conv == "conv_out" and not any(key.endswith(".conv_out.conv.bias") for key in state)
    for stack in range(config.num_stacks):
        for row, cell in enumerate(CELLS):
            ours = f"stacks.{stack}.cells.{row}"
            theirs = f"neck.fpn_stages.{stack}.{cell}.{conv}"
            yield f"{ours}.conv.weight", Source((f"{theirs}.conv.weight",))
            yield f"{ours}.conv.bias", Source((f"{theirs}.conv.bias",), optional=no_bias)
            yield from _norm(f"{ours}.bn", f"{theirs}.bn")
    for tower, convs, predict, outputs in (
        ("classes", "cls_convs", "retina_cls", len(config.classes)),
        ("boxes", "reg_convs", "retina_reg", 4),
    ):
        yield from _tower(config, f"retina_head.{tower}", f"bbox_head.{convs}", state)
        for field in ("weight", "bias"):
            yield (
                f"retina_head.{tower}.predict.{field}",
                Source((f"bbox_head.{predict}.{field}",), _scales_first(outputs)),
            )


def _tower(
    config: DetectorConfig, ours: str, theirs: str, state: StateDict
) -> Iterator[tuple[str, Source]]:
    # Before a normalisation a bias has no effect, and their convolutions have none by default.
    no_bias = not any(key.startswith(f"{theirs}.") and key.endswith(".conv.bias") for key in state)
    for index in range(config.head_convs):
        for field, optional in (("weight", False), ("bias", no_bias)):
            copies = tuple(f"{theirs}.{level}.{index}.conv.{field}" for level in range(NUM_LEVELS))
            yield f"{ours}.convs.{index}.{field}", Source(copies, optional=optional)
        for exit_index in range(config.num_exits):
            for level in range(NUM_LEVELS):
                yield from _norm(
                    f"{ours}.norms.{exit_index}.{level}.{index}", f"{theirs}.{level}.{index}.bn"
                )


def _projection(ours: str, theirs: str) -> Iterator[tuple[str, Source]]:
    yield f"{ours}.0.weight", Source((f"{theirs}.conv.weight",))
    yield from _norm(f"{ours}.1", f"{theirs}.bn")


def _norm(ours: str, theirs: str) -> Iterator[tuple[str, Source]]:
    for field in NORM_FIELDS:
        yield f"{ours}.{field}", Source((f"{theirs}.{field}",))


def _scales_first(outputs: int) -> Callable[[Tensor], Tensor]:
    """Return a function that puts a prediction's values in the order of anchors used here.

    It reorders (ratios * scales * outputs, ...) values to (scales * ratios * outputs, ...).
    """

    def convert(value: Tensor) -> Tensor:
        by_anchor = value.unflatten(0, (len(ASPECT_RATIOS), len(OCTAVE_SCALES), outputs))
        return by_anchor.transpose(0, 1).flatten(0, 2)

    return convert
