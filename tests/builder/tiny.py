"""A configuration that trains in seconds."""

from __future__ import annotations

from dataclasses import replace

from builder.config.configuration import Config
from builder.config.named import CONFIGS

_BASE = CONFIGS["bccd"]

TINY = Config(
    replace(
        _BASE.detector,
        input_size=(128, 128),
        num_stacks=3,
        neck_channels=8,
        head_channels=8,
        max_candidates=20,
        max_detections=20,
    ),
    replace(
        _BASE.train,
        epochs=2,
        batch_size=3,
        warmup_steps=1,
        exits_per_step=2,
        split="train",
        validation_split=None,
    ),
)
