"""SSDLite on MobileNetV2, as published (Sandler et al., MobileNetV2, 2018; Liu et al., SSD, 2016).

    image -> MobileNetV2 -> strides 16 and 32 -> extra layers -> strides 64 to 512
                                 '------ a head of its own on each of the six ------'

The weights that are public have their normalisation folded into the convolutions, so there is none
here: every convolution has a bias. They were trained at 300 pixels under TensorFlow's SAME padding,
which depends on the size of what it pads; here each layer keeps the padding that it had at 300, and
so what a cell sees stays where it was at every other size.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from builder.modeling.heads import PREDICTION_STD, PRIOR_LOGIT

WIDTHS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
"""Channels that each block of the backbone puts out."""

EXPANSION = 6
"""Factor by which every block but the first widens its input."""

PADDED_BEFORE = {1: 0, 3: 1, 6: 0, 13: 1}
"""Padding of the blocks of stride 2: index -> rows and columns of zeros before the input.

It is what they have at 300 pixels.
"""

STEM_WIDTH, LAST_WIDTH = 32, 1280

EXTRAS = ((256, 512, 0), (128, 256, 1), (128, 256, 1), (64, 128, 0))
"""Layers behind the backbone, each of stride 2: (channels reduced to, put out, padding before)."""

FINEST_TAP, TAP = 6, 13
"""Indices of the blocks whose expansion is a feature map, at strides 8 and 16."""

STRIDES = (16, 32, 64, 128, 256, 512)
"""Strides of the six maps that have a head."""

TRAINED_SIZE = 300
"""Pixels of the input that anchors are shares of."""

SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)
"""Sides of the square anchors of the maps, as shares of ``TRAINED_SIZE``.

The last is there for the geometric mean alone.
"""

FIRST_SHAPES = ((0.1, 1.0), (0.2, 2.0), (0.2, 0.5))
"""Anchors of the first map, as (scale, width over height)."""

RATIOS = (1.0, 2.0, 0.5, 3.0, 1 / 3)
"""Anchors of the other maps, as width over height.

One more is square, between this scale and the next.
"""

CENTRE_SCALE, SIZE_SCALE = 0.1, 0.2
"""Factors of centres and sizes that make a head's outputs deltas of ``builder.modeling.boxes``."""


class Conv(nn.Conv2d):
    """A convolution with bias that halves sides up, or keeps them; ``before`` zeros come first."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        groups: int,
        before: int,
    ) -> None:
        # With one zero before, as many behind change nothing: no window more fits.
        super().__init__(in_channels, out_channels, kernel, stride, before, groups=groups)
        self._behind = before == 0 and kernel > 1

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C_out, ceil(H / stride), ceil(W / stride)) for (B, C, H, W)."""
        height, width = int(x.shape[-2]), int(x.shape[-1])
        if self._behind:
            x = F.pad(x, (0, 1 + width % 2, 0, 1 + height % 2))
        elif self.training and (height, width) == (1, 1):
            # One weight meets the only cell. oneDNN leaves the gradient of the others in bfloat16
            # as it found the memory.
            at = self.padding[0]
            weight = self.weight[..., at : at + 1, at : at + 1]
            return F.conv2d(x, weight, self.bias, groups=self.groups)
        return super().forward(x)


def _pointwise(in_channels: int, out_channels: int) -> Conv:
    return Conv(in_channels, out_channels, 1, 1, 1, 0)


def _depthwise(channels: int, stride: int = 1, before: int = 1) -> Conv:
    return Conv(channels, channels, 3, stride, channels, before)


class Block(nn.Module):
    """An inverted residual (Sandler et al., 2018, table 1)."""

    def __init__(self, in_channels: int, out_channels: int, index: int) -> None:
        super().__init__()
        stride = 2 if index in PADDED_BEFORE else 1
        hidden = in_channels * (EXPANSION if index else 1)
        self.expand = _pointwise(in_channels, hidden) if index else None
        self.depthwise = _depthwise(hidden, stride, PADDED_BEFORE.get(index, 1))
        self.project = _pointwise(hidden, out_channels)
        self._residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what comes out for (B, C, H, W), and the expansion."""
        expanded = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(expanded)))
        return (x + y if self._residual else y), expanded


class Extra(nn.Module):
    """A layer that halves the resolution: 1x1, depthwise 3x3 of stride 2, 1x1."""

    def __init__(self, in_channels: int, reduced: int, out_channels: int, before: int) -> None:
        super().__init__()
        self.reduce = _pointwise(in_channels, reduced)
        self.depthwise = _depthwise(reduced, 2, before)
        self.project = _pointwise(reduced, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, ceil(H / 2), ceil(W / 2)) for (B, C, H, W)."""
        for layer in (self.reduce, self.depthwise, self.project):
            x = F.relu6(layer(x))
        return x


class Predictor(nn.Module):
    """A predictor of values at every cell: a depthwise convolution, then a linear 1x1."""

    def __init__(self, channels: int, num_outputs: int) -> None:
        super().__init__()
        self.depthwise = _depthwise(channels)
        self.pointwise = _pointwise(channels, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, H * W, num_outputs) for (B, C, H, W), rows row-major over (y, x)."""
        y: Tensor = self.pointwise(F.relu6(self.depthwise(x)))
        return y.permute(0, 2, 3, 1).flatten(1, 2)


class Head(nn.Module):
    """A head of one map, which predicts classes and boxes at its anchors."""

    delta_scale: Tensor

    def __init__(self, channels: int, num_anchors: int, num_classes: int) -> None:
        super().__init__()
        self.classes = Predictor(channels, num_anchors * num_classes)
        self.boxes = Predictor(channels, num_anchors * 4)
        self._num_classes = num_classes
        self.register_buffer("delta_scale", delta_scale(), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, H * W * anchors, num_classes) and deltas (..., 4) for (B, C, H, W)."""
        logits = self.classes(x).reshape(x.shape[0], -1, self._num_classes)
        return logits, self.boxes(x).reshape(x.shape[0], -1, 4) * self.delta_scale


class SSDLite(nn.Module):
    """SSDLite-MobileNetV2 for ``num_classes`` classes, which score by themselves (sigmoid)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = Conv(3, STEM_WIDTH, 3, 2, 1, 0)
        widths = (STEM_WIDTH, *WIDTHS)
        self.blocks = nn.ModuleList(
            Block(of, to, index) for index, (of, to) in enumerate(zip(widths, WIDTHS, strict=False))
        )
        self.last = _pointwise(WIDTHS[-1], LAST_WIDTH)
        before = (LAST_WIDTH, *(width for _, width, _ in EXTRAS))
        self.extras = nn.ModuleList(
            Extra(of, *extra) for of, extra in zip(before, EXTRAS, strict=False)
        )
        self.channels = (EXPANSION * WIDTHS[TAP - 1], *before)
        """Channels of the six maps that have a head."""
        self.finest_channels = EXPANSION * WIDTHS[FINEST_TAP - 1]
        """Channels of the map at stride 8, which has no head."""
        self.heads = nn.ModuleList(
            Head(channels, count, num_classes)
            for channels, count in zip(self.channels, anchors_per_cell(), strict=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for head in self.heads:
            for predictor, first in ((head.classes, PRIOR_LOGIT), (head.boxes, 0.0)):
                nn.init.normal_(predictor.pointwise.weight, std=PREDICTION_STD)
                nn.init.constant_(predictor.pointwise.bias, first)

    def features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the map at stride 8, and those at ``STRIDES``, for (B, H, W, 3) uint8 RGB."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)  # (B, 3, H, W)
        x = F.relu6(self.stem(pixels / 127.5 - 1))
        taps = {}
        for index, block in enumerate(self.blocks):
            x, taps[index] = block(x)
        maps = [taps[TAP], F.relu6(self.last(x))]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return taps[FINEST_TAP], maps

    def predict(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (B, A, num_classes) and deltas (B, A, 4) for the six maps.

        Rows go over maps, then y, x and anchors.
        """
        logits, deltas = zip(
            *(head(x) for head, x in zip(self.heads, maps, strict=True)), strict=True
        )
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and deltas of ``predict`` for (B, H, W, 3) uint8 RGB."""
        return self.predict(self.features(images)[1])


def delta_scale() -> Tensor:
    """Return the factors of a head's outputs x y w h, (4,)."""
    return torch.tensor([CENTRE_SCALE, CENTRE_SCALE, SIZE_SCALE, SIZE_SCALE])


def anchors_per_cell() -> tuple[int, ...]:
    """Return the number of anchors that a cell of each map has."""
    return (len(FIRST_SHAPES), *[len(RATIOS) + 1] * (len(STRIDES) - 1))


def grids(input_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return the (height, width) of the six maps."""
    height, width = input_size
    return tuple((math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES)


def make_anchors(input_size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return the anchors, (A, 4) float32 xyxy in input pixels, in the order of ``SSDLite.predict``.

    Their sides do not depend on the size of the input: what a cell makes of an object does not
    either.
    """
    rows = []
    for index, (height, width) in enumerate(grids(input_size)):
        shapes: tuple[tuple[float, float], ...] = FIRST_SHAPES
        if index:
            scale, following = SCALES[index : index + 2]
            shapes = (*((scale, ratio) for ratio in RATIOS), (math.sqrt(scale * following), 1.0))
        half = (
            np.array([(scale * ratio**0.5, scale / ratio**0.5) for scale, ratio in shapes])
            * TRAINED_SIZE
            / 2
        )  # (anchors, wh)
        y, x = np.meshgrid(
            (np.arange(height) + 0.5) * input_size[0] / height,
            (np.arange(width) + 0.5) * input_size[1] / width,
            indexing="ij",
        )
        centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)  # (cells, 1, xy)
        rows.append(np.concatenate([centres - half, centres + half], axis=-1).reshape(-1, 4))
    return np.concatenate(rows).astype(np.float32)
