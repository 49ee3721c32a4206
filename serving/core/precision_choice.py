"""The rule by which a server takes a quicker precision by itself: it costs no accuracy and gains.

Whether it costs accuracy is in the catalogue, as measured on images; whether it gains is for this
CPU to say, which times both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.core.model_entry import ModelEntry
from serving.core.quantiles import quantile

MAX_AP_DROP = 0.003
"""Accuracy (AP, in 0..1) that no operating point and no merged answer may lose as much of."""

MAX_TIME_RATIO = 0.9
"""Largest share of the time of the runtime's own precision that is worth another one."""

TimeRatios = Callable[[], Sequence[float]]
"""Function that measures times in the precision, as shares of those in the runtime's own."""


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """A precision, None being the runtime's own, and why it was taken, as one sentence."""

    precision: str | None
    reason: str


def choose_precision(
    entries: Sequence[ModelEntry], precision: str, time_ratios: TimeRatios
) -> PrecisionChoice:
    """Return whether to serve ``entries`` in ``precision`` or in what the runtime chooses.

    Nothing is timed where accuracy speaks against it.
    """
    drops = [_largest_drop(entry, precision) for entry in entries]
    known = [drop for drop in drops if drop is not None]
    if len(known) < len(drops):
        return PrecisionChoice(None, f"what {precision} costs in accuracy was not measured")
    drop = max(known)
    if drop >= MAX_AP_DROP:
        return PrecisionChoice(None, f"{precision} costs up to {drop:.4f} AP")
    ratio = quantile(time_ratios(), 0.5)
    taken = f"{precision} takes {ratio:.2f} of the time here"
    if ratio > MAX_TIME_RATIO:
        return PrecisionChoice(None, f"{taken}, too little gained")
    return PrecisionChoice(precision, f"{taken} and costs less than {MAX_AP_DROP} AP")


def _largest_drop(entry: ModelEntry, precision: str) -> float | None:
    """Return the most AP that any answer loses; None unless both were measured on the same images.

    Merged answers count where they were measured in both.
    """
    drops = []
    for own, other in zip(entry.catalogs, entry.at(precision).catalogs, strict=True):
        if own.evaluation is None or other.evaluation is None:
            return None
        if own.evaluation.images != other.evaluation.images:
            return None
        drops += [mine.ap - its.ap for mine, its in zip(own.exits, other.exits, strict=True)]
    mine, its = (
        {(each.first, each.then): each.ap for each in entry.merged_in(of)}
        for of in (None, precision)
    )
    drops += [ap - its[pair] for pair, ap in mine.items() if pair in its]
    return max(drops)
