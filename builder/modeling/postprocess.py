"""Postprocessing from logits and deltas to final boxes, in operations that every runtime has.

    top-k on logits -> decode those -> clip -> suppress duplicates -> top-k on scores

Everything is float32 and of fixed shape, and nothing here is a convolution or a matrix product:
runtimes that lower those to bfloat16 keep what follows the last of them in float32.

Suppression in matrix form. Candidates are sorted by score, best first. ``M[i, j]`` says that i
comes before j, has its class and overlaps it by more than the threshold. Greedy suppression keeps
j iff no *kept* i has ``M[i, j]``: a recursion over the order. Iterating

    keep <- not any_i (keep[i] and M[i, j])        from keep = all ones

reaches its only fixed point: after t iterations keep[j] is final for every j at the end of no
chain i1 -> i2 -> ... -> j of M longer than t edges. Intermediate results bracket the answer: odd
iterations keep at most what greedy keeps, even ones at least that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from builder.config.detector import DetectorConfig
from builder.config.suppression import SUPPRESSION_ITERATIONS
from builder.modeling.boxes import decode_boxes


@dataclass(frozen=True, slots=True)
class PostprocessFacts:
    """One detector's facts that turn its raw outputs into detections."""

    input_size: tuple[int, int]
    """Size of the model input, (height, width) in pixels."""
    score_threshold: float
    iou_threshold: float
    max_candidates: int
    max_detections: int
    iterations: int = SUPPRESSION_ITERATIONS

    @classmethod
    def of(cls, config: DetectorConfig) -> PostprocessFacts:
        """Return the facts of a detector."""
        return cls(
            config.input_size,
            config.score_threshold,
            config.iou_threshold,
            config.max_candidates,
            config.max_detections,
        )


def suppression_matrix(boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Return a (B, K, K) float32 matrix, 1 where row i suppresses column j.

    That is where i < j, labels are equal and the IoU is strictly greater than the threshold, for
    (B, K, 4) boxes and (B, K) labels, best first.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)  # each (B, K)
    overlap = (
        torch.minimum(x2[:, :, None], x2[:, None, :])
        - torch.maximum(x1[:, :, None], x1[:, None, :])
    ).clamp(min=0) * (
        torch.minimum(y2[:, :, None], y2[:, None, :])
        - torch.maximum(y1[:, :, None], y1[:, None, :])
    ).clamp(min=0)  # (B, K, K)
    area = (x2 - x1) * (y2 - y1)
    union = area[:, :, None] + area[:, None, :] - overlap
    # A product instead of a quotient: two empty boxes have union 0 and suppress nothing.
    overlapping = overlap > union * iou_threshold
    same_class = labels[:, :, None] == labels[:, None, :]
    before = torch.ones(boxes.shape[1], boxes.shape[1], device=boxes.device).triu(1)
    return (overlapping & same_class).float() * before


def suppress(matrix: Tensor, iterations: int) -> Tensor:
    """Return (B, K) float32, 1 for the rows to keep, of a (B, K, K) suppression matrix.

    The module's docstring explains the iteration.
    """
    keep = 1 - matrix.amax(dim=1)  # the first iteration, from all ones
    for _ in range(iterations - 1):
        keep = 1 - (matrix * keep[:, :, None]).amax(dim=1)
    return keep


def decode_and_suppress(
    logits: Tensor, deltas: Tensor, anchors: Tensor, facts: PostprocessFacts
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the final detections, best first.

    ``logits`` (B, A, C), ``deltas`` (B, A, 4), ``anchors`` (A, 4) xyxy input pixels, float32, of
    D = ``max_detections`` rows at most. Returns boxes (B, D, 4) float32 xyxy in input pixels,
    clipped to the input; scores (B, D) float32; labels (B, D) int32; counts (B,) int32. Rows from
    the count on are padding: zero boxes, score 0, label -1.

    Only the ``max_candidates`` best (anchor, class) pairs are considered, and of those the ones
    that score strictly more than the threshold. Among equal scores the lower flat index wins where
    the runtime's TopK is stable.
    """
    num_classes = logits.shape[2]
    candidates = min(facts.max_candidates, logits.shape[1] * num_classes)
    best, index = logits.flatten(1).topk(candidates, dim=1)  # (B, K), K candidates
    rows = torch.div(index, num_classes, rounding_mode="floor")  # (B, K) anchor rows
    labels = index - rows * num_classes
    gather_at = rows[:, :, None].expand(-1, -1, 4)
    boxes = decode_boxes(deltas.gather(1, gather_at), anchors[rows])  # (B, K, 4)
    height, width = facts.input_size
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    boxes = torch.minimum(boxes.clamp(min=0), limit)

    keep = suppress(suppression_matrix(boxes, labels, facts.iou_threshold), facts.iterations)
    scores = torch.sigmoid(best)
    scores = scores * keep * (scores > facts.score_threshold).float()

    scores, order = scores.topk(min(facts.max_detections, candidates), dim=1)  # (B, D)
    valid = scores > 0
    boxes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4)) * valid[:, :, None].float()
    labels = (labels.gather(1, order) + 1) * valid - 1
    return boxes, scores, labels.to(torch.int32), valid.sum(dim=1, dtype=torch.int32)
