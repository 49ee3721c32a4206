"""Counting positives; accuracy itself is seen in the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.data import read_bccd
from builder.training import validation
from builder.training.validation import positives_per_level
from tests.builder.tiny import TINY


def test_positives_per_level(bccd: Path) -> None:
    counts = positives_per_level(TINY.detector, read_bccd(bccd, "train"))
    assert len(counts) == 5
    assert counts[1] > 0  # squares of 32 pixels, the anchors of P4
    assert counts[4] == 0


def test_positives_of_a_few(bccd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = read_bccd(bccd, "train")
    whole = positives_per_level(TINY.detector, dataset)
    monkeypatch.setattr(validation, "MAX_COUNTED", 2)
    part = positives_per_level(TINY.detector, dataset)
    assert 0 < sum(part) < sum(whole)
