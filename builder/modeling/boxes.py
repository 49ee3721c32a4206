"""Box arithmetic: coding relative to anchors, overlap, and which anchor answers for which box.

Boxes are float32 xyxy with x1 <= x2 and y1 <= y2; pixels are areas, so a box's width is x2 - x1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
"""Bound to which predicted log width and height ratios are clamped, so that exp stays finite."""

BACKGROUND = -1
"""Match of an anchor that answers for no box."""


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the deltas of boxes (..., 4) relative to anchors (..., 4), both xyxy.

    They are (..., 4) dx, dy, dw, dh: centre offsets in anchor sizes and logarithms of size ratios
    (Girshick et al., 2014), unscaled.
    """
    size, anchor_size = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    offset = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / 2
    return torch.cat([offset / anchor_size, torch.log(size / anchor_size)], dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes of ``deltas``: the inverse of ``encode_boxes``.

    Log size ratios are clamped to MAX_LOG_SCALE; boxes are not clipped.
    """
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) * 0.5 + deltas[..., :2] * anchor_size
    half = anchor_size * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * 0.5
    return torch.cat([centre - half, centre + half], dim=-1)


def box_area(boxes: Tensor) -> Tensor:
    """Return the (...) areas of (..., 4) xyxy boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of every pair: (N, 4), (M, 4) -> (N, M).

    It is 0 where both are empty.
    """
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)  # (N, M)
    union = box_area(a)[:, None] + box_area(b)[None, :] - overlap
    return overlap / union.clamp(min=1e-9)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of aligned pairs, (N, 4), (N, 4) -> (N,).

    It is 0 where both are empty.
    """
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    return overlap / (box_area(a) + box_area(b) - overlap).clamp(min=1e-9)


def match_anchors(anchors: Tensor, boxes: Tensor, threshold: float = 0.5) -> Tensor:
    """Return which box each anchor answers for: (A,) int64, an index into ``boxes`` or BACKGROUND.

    An anchor takes the box it overlaps most if their IoU is at least ``threshold``, otherwise it
    is background: none is ignored. Then each box takes the anchor that overlaps it most, whatever
    the IoU; if several boxes want one anchor, the last of them has it.
    """
    if not len(boxes):
        return torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
    iou = pairwise_iou(anchors, boxes)  # (A, G)
    best, match = iou.max(dim=1)
    match[best < threshold] = BACKGROUND
    for index, anchor in enumerate(iou.argmax(dim=0).tolist()):
        match[anchor] = index
    return match


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalised IoU of aligned pairs: (N, 4), (N, 4) -> (N,) in [-1, 1].

    It is that of Rezatofighi et al., 2019.
    """
    overlap = (
        (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2]))
        .clamp(min=0)
        .prod(dim=-1)
    )
    union = (box_area(a) + box_area(b) - overlap).clamp(min=1e-7)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=-1)
    hull = hull.clamp(min=1e-7)
    return overlap / union - (hull - union) / hull
