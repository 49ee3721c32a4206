"""Accuracy of a detector on a data set, through torch: for training and for choosing.

Published figures come from the exported segments (``builder.measuring.accuracy``).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from builder.config.detector import DetectorConfig
from builder.data import AveragePrecision, Dataset, ScoredBoxes, average_precision
from builder.data.augment import letterbox
from builder.modeling.architectures import AnyDetector, make_detector
from builder.modeling.exits import Inputs
from builder.training.batch import assign_examples, move
from builder.training.views import placed
from serving.core.letterbox import PLACEMENTS

MAX_COUNTED = 500
"""Most images of a data set in which positive anchors are counted."""


def positives_per_level(config: DetectorConfig, dataset: Dataset) -> tuple[int, ...]:
    """Return the number of positive anchors at each level of the pyramid, without augmentation.

    They are counted over as many as MAX_COUNTED images spread over the data set. A level without
    any is never trained to find anything.
    """
    detector = make_detector(config)
    anchors, per_level = detector.anchors, detector.anchors_per_level()
    counts = np.zeros(len(per_level), dtype=np.int64)
    stride = -(-len(dataset.samples) // MAX_COUNTED)
    for sample in dataset.samples[::stride]:
        example = letterbox(sample, config.input_size, PLACEMENTS[config.resize])
        targets = assign_examples([example], anchors, len(config.classes))
        levels = np.searchsorted(np.cumsum(per_level), targets.rows.numpy(), side="right")
        counts += np.bincount(levels, minlength=len(per_level))
    return tuple(counts.tolist())


@torch.inference_mode()
def validate(
    detector: AnyDetector, dataset: Dataset, inputs: Iterable[Inputs] | None = None
) -> dict[int, AveragePrecision]:
    """Return the AP of every exit on images as the server places them, in float32.

    It is not told by the size of objects.

    ``inputs`` are those of all images in order, if they are at hand.
    """
    config = detector.config
    device, placed_by = detector.anchors.device, PLACEMENTS[config.resize]
    input_height, input_width = config.input_size
    found: dict[int, list[ScoredBoxes]] = {k: [] for k in range(1, config.num_exits + 1)}
    was_training = detector.training
    detector.eval()
    remaining = iter(dataset.samples)
    for of_batch in placed(config, dataset) if inputs is None else inputs:
        images = len(of_batch if isinstance(of_batch, Tensor) else of_batch[0])
        samples = list(islice(remaining, images))
        for depth, outputs in detector(move(of_batch, device)).items():
            boxes, scores, labels, counts = (
                tensor.cpu().numpy() for tensor in detector.postprocess(outputs)
            )
            for row, sample in enumerate(samples):
                height, width = sample.size
                placement = placed_by(width, height, input_width, input_height)
                count = counts[row]
                found[depth].append(
                    ScoredBoxes(
                        placement.to_original(boxes[row, :count]),
                        scores[row, :count],
                        labels[row, :count].astype(np.int64),
                    )
                )
    detector.train(was_training)
    return {depth: average_precision(dataset, rows, by_size=False) for depth, rows in found.items()}
