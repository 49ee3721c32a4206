"""Counted cost against the published figures of R-50 NAS-FPN 7 @ 256 (640 px, 90 classes)."""

from __future__ import annotations

import pytest
import torch

from builder.config import CONFIGS
from builder.modeling.cost import count_parameters, exit_macs
from builder.modeling.detector import Detector

GMACS = (98.6, 105.5, 112.4, 119.3, 126.3, 133.2, 140.1)


def test_multiply_accumulates_of_every_exit() -> None:
    counted = [macs / 1e9 for macs in exit_macs(CONFIGS["coco_r50"].detector)]
    assert counted == pytest.approx(GMACS, rel=0.005)


def test_parameters() -> None:
    """The published model has one exit, so six sets of head normalisations fewer."""
    with torch.device("meta"):
        detector = Detector(CONFIGS["coco_r50"].detector)
    parameters = count_parameters(detector)
    assert parameters == pytest.approx(60.06e6, rel=0.005)
    extra = 6 * 5 * 2 * 4 * 2 * 256  # exits, levels, towers, convolutions, scale and shift
    assert parameters - extra == pytest.approx(60.06e6, rel=0.0005)


def test_default_model_pays_for_depth() -> None:
    macs = exit_macs(CONFIGS["bccd"].detector)
    assert macs[-1] >= 2 * macs[0]
    assert count_parameters(Detector(CONFIGS["bccd"].detector)) < 12e6
