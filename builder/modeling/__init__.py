"""Detector network, and the mathematics around it."""

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
