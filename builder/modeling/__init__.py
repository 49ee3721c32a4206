"""Detector network, and the mathematics around it.

    detector    stem, neck and heads; ``architectures`` names the kinds, of which ``ssdlite`` with
                exits (``anytime_ssd``) is the other
    backbones/, pyramid, heads, layers, exits   its parts
    anchors, boxes, postprocess                 boxes, and how logits become them
    checkpoint, frozen, recalibration           a trained detector: on disk, as exported
    cost                                        multiply-accumulates and parameters by exit

Depends on ``builder.config`` and ``serving.core``. Begin with ``detector``.
"""

from builder.modeling.checkpoint import load_checkpoint, save_checkpoint
from builder.modeling.detector import Detector
from builder.modeling.postprocess import PostprocessFacts, decode_and_suppress

__all__ = [
    "Detector",
    "PostprocessFacts",
    "decode_and_suppress",
    "load_checkpoint",
    "save_checkpoint",
]
