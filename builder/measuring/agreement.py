"""Which of several models is better where nothing is annotated: agreement, or a stated order.

Agreement of an operating point is the AP that it would have if the boxes which the reference finds
were all objects there are. It says how much of the largest model's answer a smaller one gives, not
how often either is right: an error that all make alike counts as right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from builder.data import Dataset, Sample
from builder.measuring.accuracy import Answers
from serving.core.catalog import AGREEMENT, ORDER, Evaluation, Exit
from serving.core.model_entry import ModelEntry

UNLABELLED = "unlabelled"
"""What is said in the place of a split."""
DIGITS = 4
"""Decimal places of figures in catalogues."""


def without_annotations(paths: Sequence[Path], classes: Sequence[str]) -> Dataset:
    """Return a data set of images of which nothing is known but where they are."""
    nothing = np.zeros((0, 4), np.float32)
    samples = tuple(
        Sample(str(path), path, (0, 0), nothing, np.zeros(0, np.int64), np.zeros(0, np.float32))
        for path in paths
    )
    return Dataset(tuple(classes), samples)


def annotated_by(answers: Answers, threshold: float) -> Dataset:
    """Return the images of ``answers`` with what the last point finds in them as annotations.

    What scores less than ``threshold`` is none.
    """
    rows = answers.scored(answers.found[max(answers.found)])
    samples = []
    for sample, found, placement in zip(
        answers.dataset.samples, rows, answers.placements, strict=True
    ):
        sides = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
        kept = (found.scores >= threshold) & (sides > 0).all(axis=1)
        samples.append(
            replace(
                sample,
                size=(placement.original_height, placement.original_width),
                boxes_xyxy=found.boxes_xyxy[kept],
                labels=found.labels[kept],
                areas=sides[kept].prod(axis=1),
            )
        )
    return replace(answers.dataset, samples=tuple(samples))


def about_agreement(
    name: str, num_images: int, reference: str, runtime: str, date: str
) -> Evaluation:
    """Return what a catalogue says about figures of agreement with ``reference``."""
    return Evaluation(name, UNLABELLED, num_images, 0, runtime, date, AGREEMENT, reference)


def in_order(entries: Sequence[ModelEntry], date: str) -> tuple[ModelEntry, ...]:
    """Return the entries with their places in the order in which they are given.

    Each point is better than those before it: the sizes of a model smallest first, its exits by
    depth. Figures are places over their number.
    """
    count = sum(catalog.num_exits for entry in entries for catalog in entry.catalogs)
    names = " < ".join(entry.name for entry in entries)
    about = Evaluation("", "", 0, 0, "", date, ORDER, names)
    place, ordered = 0, []
    for entry in entries:
        catalogs = []
        for catalog in entry.catalogs:
            exits = []
            for each in catalog.exits:
                place += 1
                share = round(place / count, DIGITS)
                exits.append(Exit(each.depth, share, share, {}))
            catalogs.append(replace(catalog, exits=tuple(exits), evaluation=about))
        ordered.append(replace(entry, catalogs=tuple(catalogs), merged=()))
    return tuple(ordered)
