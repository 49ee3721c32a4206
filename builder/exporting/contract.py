"""What every segment on disk has in common, whoever wrote its graph."""

from __future__ import annotations

OPSET = 17
"""Operator set of exported segments: the latest that TensorRT 8.6 reads."""

IMAGES = "images"
"""Name of the input of a stem: (B, H, W, 3) uint8, RGB."""
DETECTIONS = ("boxes", "scores", "labels", "counts")
"""Names of the outputs of a head, for D rows at most: (B, D, 4) float32 xyxy in pixels of the
input, (B, D) float32, (B, D) int32 and (B,) int32. Rows from the count on are padding: zero boxes,
score 0, label -1."""

WEIGHTS = "weights.bin"
"""Name of the file of the weights that the segments of several input sizes share."""
