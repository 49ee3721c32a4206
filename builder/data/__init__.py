"""Data sets: readers, augmentation, batches, average precision."""

from collections.abc import Callable
from pathlib import Path

from builder.data.coco import AveragePrecision, Detections, average_precision, resampled_ap
from builder.data.dataset import Dataset, Sample
from builder.data.deeppcb import read_deeppcb
from builder.data.voc import read_bccd

DATASETS: dict[str, Callable[[Path, str], Dataset]] = {
    "bccd": read_bccd,
    "deeppcb": read_deeppcb,
}
"""Name -> reader of (folder, split)."""

__all__ = [
    "DATASETS",
    "AveragePrecision",
    "Dataset",
    "Detections",
    "Sample",
    "average_precision",
    "read_bccd",
    "read_deeppcb",
    "resampled_ap",
]
