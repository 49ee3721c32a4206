"""MMDetection's RetinaNet with NAS-FPN from its published key layout alone: a state dict with
random values, and what its model computes, written with torch's functions and nothing else.

Layout and graph: mmdet/models/necks/nas_fpn.py, dense_heads/retina_sepbn_head.py and
backbones/resnet.py; anchors: task_modules/prior_generators/anchor_generator.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]

CELLS = ("gp_64_4", "sum_44_4", "sum_43_3", "sum_34_4", "sum_55_5", "sum_77_7", "gp_75_6")
LEVELS, RATIOS, SCALES = range(5), (0.5, 1.0, 2.0), (2**0, 2 ** (1 / 3), 2 ** (2 / 3))
NUM_ANCHORS = 9
BLOCKS = (3, 4, 6, 3)


def random_state(
    *, width: int, channels: int, stacks: int, convs: int, classes: int, version: str = "current"
) -> State:
    """Weights whose activations neither vanish nor explode; normalisation statistics at random."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}

    def conv(name: str, out: int, into: int, kernel: int, bias: bool = False) -> None:
        fan = into * kernel * kernel
        weight = torch.randn(out, into, kernel, kernel, generator=generator)
        state[f"{name}.weight"] = weight * (2 / fan) ** 0.5
        if bias:
            state[f"{name}.bias"] = torch.randn(out, generator=generator) / 10

    def norm(name: str, size: int) -> None:
        for field in ("weight", "bias", "running_mean", "running_var"):
            base = 1.0 if field in ("weight", "running_var") else 0.0
            state[f"{name}.{field}"] = base + 0.3 * (torch.rand(size, generator=generator) - 0.5)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def conv_norm(name: str, out: int, into: int, kernel: int, bias: bool = False) -> None:
        conv(f"{name}.conv", out, into, kernel, bias)
        norm(f"{name}.bn", out)

    conv("backbone.conv1", width, 3, 7)
    norm("backbone.bn1", width)
    into = width
    for stage, count in enumerate(BLOCKS):
        middle = width * 2**stage
        for index in range(count):
            block = f"backbone.layer{stage + 1}.{index}"
            for number, (out, given, kernel) in enumerate(
                ((middle, into, 1), (middle, middle, 3), (4 * middle, middle, 1)), start=1
            ):
                conv(f"{block}.conv{number}", out, given, kernel)
                norm(f"{block}.bn{number}", out)
            if index == 0:
                conv(f"{block}.downsample.0", 4 * middle, into, 1)
                norm(f"{block}.downsample.1", 4 * middle)
            into = 4 * middle
    for index in range(3):
        conv_norm(f"neck.lateral_convs.{index}", channels, width * 8 * 2**index, 1)
    for index in range(2):
        conv_norm(f"neck.extra_downsamples.{index}.0", channels, channels, 1)
    after, bias = ("conv_out", False) if version == "1.x" else ("out_conv", True)
    for stack in range(stacks):
        for cell in CELLS:
            conv_norm(f"neck.fpn_stages.{stack}.{cell}.{after}", channels, channels, 3, bias)
    for tower in ("cls_convs", "reg_convs"):
        for level in LEVELS:
            for index in range(convs):
                conv_norm(f"bbox_head.{tower}.{level}.{index}", channels, channels, 3)
                shared = f"bbox_head.{tower}.0.{index}.conv.weight"
                state[f"bbox_head.{tower}.{level}.{index}.conv.weight"] = state[shared].clone()
    conv("bbox_head.retina_cls", NUM_ANCHORS * classes, channels, 3, bias=True)
    conv("bbox_head.retina_reg", NUM_ANCHORS * 4, channels, 3, bias=True)
    return state


def _conv(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)


def _conv_norm(state: State, name: str, x: Tensor) -> Tensor:
    return _norm(state, f"{name}.bn", _conv(state, f"{name}.conv", x))


def resnet(state: State, x: Tensor) -> list[Tensor]:
    """Normalised pixels (B, 3, H, W) -> [C3, C4, C5]."""
    x = F.relu(_norm(state, "backbone.bn1", _conv(state, "backbone.conv1", x, 2)))
    x = F.max_pool2d(x, 3, 2, 1)
    maps = []
    for stage, count in enumerate(BLOCKS):
        for index in range(count):
            block = f"backbone.layer{stage + 1}.{index}"
            stride = 2 if stage and not index else 1
            y = F.relu(_norm(state, f"{block}.bn1", _conv(state, f"{block}.conv1", x)))
            y = F.relu(_norm(state, f"{block}.bn2", _conv(state, f"{block}.conv2", y, stride)))
            y = _norm(state, f"{block}.bn3", _conv(state, f"{block}.conv3", y))
            if index == 0:
                x = _conv(state, f"{block}.downsample.0", x, stride)
                x = _norm(state, f"{block}.downsample.1", x)
            x = F.relu(x + y)
        maps.append(x)
    return maps[1:]


def _resize(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[-1] < like.shape[-1]:
        return F.interpolate(x, size=like.shape[-2:], mode="nearest")
    kernel = x.shape[-1] // like.shape[-1]
    return F.max_pool2d(x, kernel, kernel) if kernel > 1 else x


def _gp(x1: Tensor, x2: Tensor, like: Tensor) -> Tensor:
    x1, x2 = _resize(x1, like), _resize(x2, like)
    return x2 + torch.sigmoid(x2.mean(dim=(2, 3), keepdim=True)) * x1


def nas_fpn(state: State, maps: list[Tensor]) -> list[Tensor]:
    """[C3, C4, C5] -> [P3, ..., P7] after all stacks."""
    maps = [_conv_norm(state, f"neck.lateral_convs.{i}", x) for i, x in enumerate(maps)]
    for index in range(2):
        x = _conv_norm(state, f"neck.extra_downsamples.{index}.0", maps[-1])
        maps.append(F.max_pool2d(x, 2, 2))
    p3, p4, p5, p6, p7 = maps
    after = "conv_out" if any(".conv_out." in key for key in state) else "out_conv"
    stack = 0
    while f"neck.fpn_stages.{stack}.gp_64_4.{after}.conv.weight" in state:

        def out(cell: str, x: Tensor, stack: int = stack) -> Tensor:
            return _conv_norm(state, f"neck.fpn_stages.{stack}.{cell}.{after}", F.relu(x))

        p4_1 = out("gp_64_4", _gp(p6, p4, p4))
        p4_2 = out("sum_44_4", p4_1 + p4)
        p3 = out("sum_43_3", _resize(p4_2, p3) + p3)
        p4 = out("sum_34_4", _resize(p3, p4) + p4_2)
        p5 = out("sum_55_5", p5 + _gp(p4, p3, p5))
        p7 = out("sum_77_7", p7 + _gp(p5, p4_2, p7))
        p6 = out("gp_75_6", _gp(p7, p5, p6))
        stack += 1
    return [p3, p4, p5, p6, p7]


def head(state: State, maps: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (B, H, W, 9, classes) and deltas (B, H, W, 9, 4) of each level."""
    for level, x in enumerate(maps):
        outputs = []
        for tower, predict in (("cls_convs", "retina_cls"), ("reg_convs", "retina_reg")):
            y, index = x, 0
            while f"bbox_head.{tower}.{level}.{index}.conv.weight" in state:
                y = F.relu(_conv_norm(state, f"bbox_head.{tower}.{level}.{index}", y))
                index += 1
            y = _conv(state, f"bbox_head.{predict}", y)  # (B, 9 * outputs, H, W)
            outputs.append(y.permute(0, 2, 3, 1).unflatten(-1, (NUM_ANCHORS, -1)))
        yield outputs[0], outputs[1]


def anchors(height: int, width: int, stride: int) -> Tensor:
    """(height, width, 9, 4) xyxy: ratios of height over width before scales, cells from (0, 0)."""
    ratios, scales = torch.tensor(RATIOS), 4 * torch.tensor(SCALES)
    tall = torch.sqrt(ratios)[:, None]
    half_height = (stride * tall * scales).flatten() / 2
    half_width = (stride / tall * scales).flatten() / 2
    base = torch.stack([-half_width, -half_height, half_width, half_height], dim=1)  # (9, 4)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1) * stride
    return shifts[:, :, None] + base
