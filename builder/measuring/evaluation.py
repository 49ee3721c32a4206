"""Accuracies of all operating points of a model, and of their merged answers: printed, kept."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from builder.measuring.accuracy import Accuracy, Answers, accuracy_of
from builder.measuring.fronts import AnswerFigures
from serving.core.catalog import Evaluation, Exit
from serving.core.family import Family
from serving.core.ladder import PointId
from serving.core.model_entry import MergedAccuracy, ModelEntry, SizedExit

DIGITS = 4
"""Decimal places of accuracies in catalogues and JSON."""


def evaluate(
    answers: Answers, merge_depths: Collection[int] | None = None, num_resamples: int = 0
) -> Evaluated:
    """Return the accuracy of every point, and of every pair whose answers are merged.

    Pairs are of exits in ``merge_depths``, None: of all. With ``num_resamples`` there are 95 %
    intervals.
    """
    points = sorted(answers.found)
    found: dict[tuple[PointId, ...], Accuracy] = {}
    for point in points:
        found[(point,)] = accuracy_of(answers, answers.found[point], num_resamples)
    chosen = [point for point in points if merge_depths is None or point[1] in merge_depths]
    for first in chosen:
        for then in chosen:
            rows = answers.merged(first, then)
            if rows is not None:
                found[first, then] = accuracy_of(answers, rows, num_resamples)
    return Evaluated(answers.family, answers.dataset.classes, found)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """Accuracy of every answer of a family on a data set."""

    family: Family
    classes: tuple[str, ...]
    """Classes of the data set, called as the family's."""
    accuracies: Mapping[tuple[PointId, ...], Accuracy]
    """Accuracy by the points of an answer: one, or two of which the second takes in the first."""

    def table(self) -> list[str]:
        """Return lines of text: each answer's figures, then those of each class."""
        label = self.family.ladder.answer_label
        width = max(len(label(points)) for points in self.accuracies)
        lines = [f"{'answer':{width}}      AP    AP50"]
        for points, accuracy in self.accuracies.items():
            average = accuracy.average
            line = f"{label(points):{width}}  {average.ap:.4f}  {average.ap50:.4f}"
            if accuracy.ap_interval and accuracy.ap50_interval:
                line += f"  AP {_span(accuracy.ap_interval)}  AP50 {_span(accuracy.ap50_interval)}"
            if other := self._compared_with(points):
                gain, interval = accuracy.above(self.accuracies[other])
                line += f"  {gain:+.4f} against {label(other)}"
                line += f" {_span(interval, '+.4f')}" if interval else ""
            lines.append(line)
        single = [points for points in self.accuracies if len(points) == 1]
        width = max(map(len, self.classes))
        lines.append("  ".join([f"{'AP of class':{width}}", *map(label, single)]))
        for name in self.classes:
            columns = (
                f"{self.accuracies[points].average.ap_by_class[name]:{len(label(points))}.4f}"
                for points in single
            )
            lines.append("  ".join([f"{name:{max(width, 11)}}", *columns]))
        return lines

    def _compared_with(self, points: tuple[PointId, ...]) -> tuple[PointId, ...] | None:
        """Return what an answer is compared with: of a merged one its second, else exit 1."""
        *_, (model, depth) = points
        if len(points) > 1:
            return points[1:]
        return ((model, 1),) if depth > 1 else None

    def into(self, entry: ModelEntry, about: Evaluation) -> ModelEntry:
        """Return ``entry`` with these figures of the family's precision, measured on ``about``."""
        for model, catalog in enumerate(self.family.catalogs):
            exits = tuple(self._exit(model, each.depth) for each in catalog.exits)
            # Of the entry, which may have figures that the family was opened without.
            own = entry.size(catalog.size).at(catalog.precision)
            entry = entry.with_figures(replace(own, exits=exits, evaluation=about))
        precision = self.family.catalogs[0].precision
        merged = [each for each in entry.merged if each.precision != precision]
        for points, accuracy in self.accuracies.items():
            if len(points) > 1:
                first, then = (SizedExit(entry.sizes[model], depth) for model, depth in points)
                ap, ap50 = accuracy.average.ap, accuracy.average.ap50
                merged.append(
                    MergedAccuracy(first, then, round(ap, DIGITS), round(ap50, DIGITS), precision)
                )
        return replace(entry, merged=tuple(merged))

    def _exit(self, model: int, depth: int) -> Exit:
        average = self.accuracies[((model, depth),)].average
        return Exit(
            depth,
            round(average.ap, DIGITS),
            round(average.ap50, DIGITS),
            _known(average.ap_by_class),
        )

    def to_json(self, about: Evaluation, front: Sequence[AnswerFigures] | None) -> dict[str, Any]:
        """Return every figure in a JSON-serialisable form.

        ``front`` has the times of answers, if they are known.
        """
        label = self.family.ladder.answer_label
        timed = {each.points: each for each in front or ()}
        answers = []
        for points, accuracy in self.accuracies.items():
            average, of_time = accuracy.average, timed.get(points)
            answers.append(
                {
                    "answer": label(points),
                    "ap": round(average.ap, DIGITS),
                    "ap_interval": _rounded(accuracy.ap_interval),
                    "ap50": round(average.ap50, DIGITS),
                    "ap50_interval": _rounded(accuracy.ap50_interval),
                    "ap_by_class": _known(average.ap_by_class),
                    "ap_by_size": _known(average.ap_by_size),
                    "seconds": None if of_time is None else of_time.seconds,
                    "on_front": None if of_time is None else of_time.better is None,
                }
            )
        return {
            "model": self.family.name,
            "precision": self.family.catalogs[0].precision,
            **about.to_json(),
            "answers": answers,
        }


def _span(interval: tuple[float, float], form: str = ".4f") -> str:
    low, high = interval
    return f"({low:{form}} .. {high:{form}})"


def _rounded(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [round(value, DIGITS) for value in interval]


def _known(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Return the accuracies of what there is in the data set, rounded."""
    return {name: round(ap, DIGITS) for name, ap in accuracies.items() if not math.isnan(ap)}
