"""The front of a model's answers: those of its operating points, and merged ones of two.

AP |            x       o  on the front
   |       o            x  off it: something no slower is at least as accurate
   |    o    x
   '--------------- milliseconds; a merged answer takes those of both points
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.core.family import Family
from serving.core.ladder import PointId
from serving.core.latency import LatencyModel
from serving.core.pareto_front import OperatingPoint, pareto_front
from serving.core.scheduling.path_costs import Costs
from serving.core.scheduling.paths import paths_of


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """An answer of one point, or of two of which the second takes in the first."""

    points: tuple[PointId, ...]
    ap: float
    seconds: float
    """Seconds from the image to the last boxes, half of the time."""
    better: tuple[PointId, ...] | None
    """Points of the most accurate answer on the front that is no slower; None: it is on it."""


def answers_of(family: Family, runtime: str) -> list[AnswerFigures] | None:
    """Return every answer of ``family`` whose accuracy is known, quickest first.

    None unless all sizes were profiled on ``runtime``.
    """
    profile = family.profile(runtime)
    if profile is None or any(runtime not in catalog.profiles for catalog in family.catalogs):
        return None
    latency = LatencyModel(profile)
    costs = [Costs(latency, paths) for paths in paths_of({s for s, _ in profile.table})]
    ladder = family.ladder
    aps: dict[tuple[PointId, ...], float] = {(point,): ladder.ap(point) for point in ladder.points}
    for first, thens in ladder.merged.items():
        aps |= {(first, then): ap for then, ap in thens.items()}
    every = list(aps)
    figures = [
        OperatingPoint(
            number, 0, sum(costs[model].typical_path(depth) for model, depth in points), ap
        )
        for number, (points, ap) in enumerate(aps.items())
    ]
    front = pareto_front(figures)
    better = {each.point.model: every[each.better.model] for each in front.dropped}
    return [
        AnswerFigures(every[each.model], each.ap, each.latency_s, better.get(each.model))
        for each in sorted(figures, key=lambda each: (each.latency_s, each.model))
    ]


def on_no_front(answers: Sequence[AnswerFigures]) -> list[PointId]:
    """Return the points that no answer on the front has: shipping them is of no use."""
    used = {point for each in answers if each.better is None for point in each.points}
    single = [each.points[0] for each in answers if len(each.points) == 1]
    return sorted(set(single) - used)


def table(family: Family, answers: Sequence[AnswerFigures]) -> list[str]:
    """Return a line of text for each answer, and one about points on no front."""
    label = family.ladder.answer_label
    width = max(len(label(each.points)) for each in answers)
    lines = [f"{'answer':{width}} {family.measure:>7}      ms"]
    for each in answers:
        verdict = f"  no better than {label(each.better)}" if each.better else ""
        lines.append(
            f"{label(each.points):{width}} {each.ap:7.4f} {1e3 * each.seconds:7.1f}{verdict}"
        )
    if useless := on_no_front(answers):
        lines.append(f"on no front: {', '.join(family.ladder.label(point) for point in useless)}")
    return lines
