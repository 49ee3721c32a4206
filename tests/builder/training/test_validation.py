"""Counting positives; accuracy itself is seen in the tests of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builder.data import Dataset, ScoredBoxes, read_bccd
from builder.modeling.architectures import make_detector
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


def test_what_is_found_of_unlabelled_classes_does_not_count(
    bccd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector that finds one box of each class everywhere."""
    detector = make_detector(TINY.detector)

    def postprocess(outputs: object) -> tuple[torch.Tensor, ...]:
        labels = torch.tensor([[0, 1, 2, -1]]).expand(len(outputs[0]), -1)  # type: ignore[index]
        count = torch.full((len(labels),), 3)
        boxes = torch.tensor([0.0, 0.0, 32.0, 32.0]).expand(*labels.shape, 4)
        return boxes, torch.ones(labels.shape), labels, count

    seen: list[list[list[int]]] = []

    def average_precision(_: Dataset, rows: list[ScoredBoxes]) -> None:
        seen.append([row.labels.tolist() for row in rows])

    monkeypatch.setattr(detector, "postprocess", postprocess)
    monkeypatch.setattr(validation, "average_precision", average_precision)
    whole = read_bccd(bccd, "train")
    first, second, *_ = whole.samples
    partly = replace(first, unlabelled=np.array([0, 2]))
    validation.validate(detector, Dataset(whole.classes, (partly, second)))
    assert seen == [[[1], [0, 1, 2]]] * TINY.detector.num_exits
