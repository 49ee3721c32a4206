"""SSDLite against TensorFlow's arithmetic, written out in numpy."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from builder.modeling import ssdlite
from builder.modeling.heads import PRIOR_PROBABILITY
from builder.modeling.ssdlite import (
    EXTRAS,
    PADDED_BEFORE,
    Block,
    Conv,
    SSDLite,
    make_anchors,
)

SIZES = (172, 300, 364)
"""Of 300 + 32 k, where all padding is what TensorFlow's would be, but for the last two maps."""


def same_padding(size: int, stride: int) -> tuple[int, int]:
    """Zeros that TensorFlow's SAME padding puts before and behind a side, for a kernel of 3."""
    total = max(0, (math.ceil(size / stride) - 1) * stride + 3 - size)
    return total // 2, total - total // 2


def depthwise(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """(C, H, W) with (C, 3, 3) under SAME padding, one output at a time."""
    padded = np.pad(x, ((0, 0), *(same_padding(side, stride) for side in x.shape[1:])))
    height, width = (math.ceil(side / stride) for side in x.shape[1:])
    out = np.zeros((x.shape[0], height, width), dtype=np.float64)
    for i in range(height):
        for j in range(width):
            y0, x0 = i * stride, j * stride
            out[:, i, j] = (padded[:, y0 : y0 + 3, x0 : x0 + 3] * kernel).sum(axis=(1, 2))
    return out


def relu6(x: np.ndarray) -> np.ndarray:
    return x.clip(0, 6)


def pointwise(x: np.ndarray, layer: torch.nn.Conv2d) -> np.ndarray:
    weight, bias = (value.detach().numpy() for value in (layer.weight, layer.bias))
    return np.einsum("oc,chw->ohw", weight[:, :, 0, 0], x) + bias[:, None, None]


@pytest.mark.parametrize("size", SIZES)
def test_every_layer_is_padded_as_at_300(size: int) -> None:
    side, seen = math.ceil(size / 2), {}
    assert same_padding(size, 2)[0] == 0  # the stem
    for index, before in PADDED_BEFORE.items():
        seen[index] = same_padding(side, 2)[0] == before
        side = math.ceil(side / 2)
    for index, (_, _, before) in enumerate(EXTRAS, start=100):
        seen[index] = same_padding(side, 2)[0] == before
        side = math.ceil(side / 2)
    wrong = {index for index, right in seen.items() if not right}
    assert wrong <= (set() if size == 300 else {101, 102, 103})


@pytest.mark.parametrize(("size", "before"), [((6, 8), 0), ((5, 7), 1), ((4, 4), 0)])
def test_padding_of_stride_two(size: tuple[int, int], before: int) -> None:
    torch.manual_seed(0)
    layer = Conv(3, 3, 3, 2, 3, before)
    x = torch.randn(3, *size)
    expected = depthwise(x.numpy(), layer.weight.detach().numpy()[:, 0], 2)
    expected += layer.bias.detach().numpy()[:, None, None]
    np.testing.assert_allclose(layer(x[None])[0].detach(), expected, atol=1e-5)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_sides_are_halved_up(size: int, before: int) -> None:
    out = Conv(1, 1, 3, 2, 1, before)(torch.zeros(1, 1, size, size + 1))
    assert out.shape[2:] == (math.ceil(size / 2), math.ceil((size + 1) / 2))


@pytest.mark.parametrize(("index", "channels"), [(0, 8), (2, 4), (6, 4)])
def test_a_block_is_its_formula(index: int, channels: int) -> None:
    torch.manual_seed(0)
    block = Block(4, channels, index)
    x = torch.randn(4, 6, 6) * 4
    expanded = x.numpy() if block.expand is None else relu6(pointwise(x.numpy(), block.expand))
    kernel = block.depthwise.weight.detach().numpy()[:, 0]
    filtered = depthwise(expanded, kernel, 2 if index in PADDED_BEFORE else 1)
    filtered += block.depthwise.bias.detach().numpy()[:, None, None]
    expected = pointwise(relu6(filtered), block.project)
    if index == 2:
        expected += x.numpy()
    y, tap = block(x[None])
    np.testing.assert_allclose(y[0].detach(), expected, atol=1e-4)
    np.testing.assert_allclose(tap[0].detach(), expanded, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (172, 172)])
def test_maps_and_rows(size: tuple[int, int]) -> None:
    model = SSDLite(3).eval()
    with torch.no_grad():
        finest, maps = model.features(torch.zeros(1, *size, 3, dtype=torch.uint8))
        logits, deltas = model.predict(maps)
    assert finest.shape[1:] == (192, *(math.ceil(side / 8) for side in size))
    assert tuple(x.shape[1] for x in maps) == model.channels == (576, 1280, 512, 256, 256, 128)
    assert tuple(tuple(x.shape[2:]) for x in maps) == ssdlite.grids(size)
    num_anchors = len(make_anchors(size))
    assert logits.shape == (1, num_anchors, 3)
    assert deltas.shape == (1, num_anchors, 4)


def test_untrained_every_anchor_is_background() -> None:
    """Wherever they begin: scores near the prior, so that a first step is of RetinaNet's size."""
    torch.manual_seed(0)
    model = SSDLite(3).eval()
    images = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        logits, deltas = model(images)
    scores = logits.sigmoid()
    assert scores.median().item() == pytest.approx(PRIOR_PROBABILITY, rel=0.1)
    assert scores.max() < 0.1
    assert deltas.abs().max() < 0.5


def test_anchors_of_300_pixels() -> None:
    anchors = make_anchors((300, 300))
    assert anchors.shape == (1917, 4)
    sides = anchors[:, 2:] - anchors[:, :2]
    # The first map: scale .1, then .2 twice as wide and twice as high.
    wide, high = 60 * 2**0.5, 60 / 2**0.5
    np.testing.assert_allclose(sides[:3], [(30, 30), (wide, high), (high, wide)], rtol=1e-6)
    # The second: .35 in five ratios, and the mean of .35 and .5.
    second = sides[1083:1089]
    np.testing.assert_allclose(second[:, 0] / second[:, 1], [1, 2, 0.5, 3, 1 / 3, 1], rtol=1e-5)
    np.testing.assert_allclose(second.prod(axis=1) ** 0.5, [105] * 5 + [300 * 0.175**0.5])
    # The last cell of all is the whole image: .95 and the mean of that and 1.
    np.testing.assert_allclose(anchors[-6], [7.5, 7.5, 292.5, 292.5])
    np.testing.assert_allclose(sides[-1], 300 * 0.95**0.5, rtol=1e-6)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    np.testing.assert_allclose(centres[0], [300 / 38, 300 / 38], rtol=1e-5)
    np.testing.assert_allclose(centres[3], [3 * 300 / 38, 300 / 38], rtol=1e-5)


def test_anchors_keep_their_pixels_at_other_sizes() -> None:
    small, large = make_anchors((172, 172)), make_anchors((364, 364))
    assert small.shape[0] < 1917 < large.shape[0]
    for rows in (slice(0, 3), slice(-6, None)):
        np.testing.assert_allclose(
            small[rows, 2:] - small[rows, :2], large[rows, 2:] - large[rows, :2], rtol=1e-5
        )


GRADIENT = """
import torch
from builder.modeling.ssdlite import Conv

for groups, stride, before in [(16, 2, 0), (16, 2, 1), (16, 1, 1), (1, 2, 1)]:
    layer = Conv(16, 16, 3, stride, groups, before).to(memory_format=torch.channels_last)
    x = torch.randn(3, 16, 1, 1).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = layer(x)
    trained.float().sum().backward()
    gradient = layer.weight.grad.flatten(2).abs().amax(dim=(0, 1))
    meets = 3 * before + before
    assert gradient[meets] > 0
    gradient[meets] = 0
    assert not gradient.any(), (groups, stride, before, gradient)
    torch.testing.assert_close(layer.eval()(x), trained.float(), rtol=0.05, atol=0.05)
"""
"""Trains on maps of one cell in bfloat16 and says if padding has a gradient."""


def test_weights_that_meet_only_padding_have_no_gradient_whatever_memory_held() -> None:
    """Under glibc's ``MALLOC_PERTURB_``, new memory holds large numbers."""
    environment = {**os.environ, "MALLOC_PERTURB_": "1"}
    subprocess.run([sys.executable, "-c", GRADIENT], env=environment, check=True, timeout=300)
