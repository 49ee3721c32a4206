"""Recipes: what is impossible is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builder.config.named import CONFIGS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("micro_batches", 0),
        ("exits_per_step", 0),
        ("learning_rate", -1e-3),
        ("drop_block", 1.0),
        ("scale_jitter", (1.2, 0.8)),
        ("optimizer", "lamb"),
        ("schedule", "linear"),
        ("box_loss", "l2"),
    ],
)
def test_impossible_recipes_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is "):
        replace(CONFIGS["bccd"].train, **{name: value})
