"""The Pareto front of operating points: exits that nothing quicker equals in accuracy.

    AP |            x       o  on the front
       |       o            x  dropped: an exit that is no slower is at least as accurate
       |    o    x
       | o
       '--------------- latency

An exit off the front is never worth its time. Measured accuracies need not rise with depth, so that
even the exits of one model are not all on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """An exit of a model, with its latency and its accuracy.

    ``model`` is its position among those served, ``latency_s`` the seconds from an image to the
    boxes of exit ``depth``, and ``ap`` the accuracy (AP, in 0..1).
    """

    model: int
    depth: int
    latency_s: float
    ap: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """A point off the front, and the most accurate of those on it that are no slower."""

    point: OperatingPoint
    better: OperatingPoint

    def reason(self, names: Sequence[str]) -> str:
        """Return one sentence for a person, with the models called by ``names``."""
        point = self.point
        subject = f"exit {point.depth} of {names[point.model]}: {short_ap(point.ap)}"
        return f"{subject}, {self.verdict(names)}"

    def verdict(self, names: Sequence[str]) -> str:
        """Return why the point was dropped, as words to be said of it."""
        better = self.better
        whose = "" if better.model == self.point.model else f" of {names[better.model]}"
        return (
            f"not above the {short_ap(better.ap)} of exit {better.depth}{whose} "
            f"({better.latency_s * 1e3:.1f} ms)"
        )


@dataclass(frozen=True, slots=True)
class Front:
    """A Pareto front, and what is off it.

    ``points`` rise in latency and in accuracy; ``dropped`` is by model, then depth.
    """

    points: tuple[OperatingPoint, ...]
    dropped: tuple[Dropped, ...]

    def table(self, names: Sequence[str], measure: str = "AP") -> list[str]:
        """Return a line of text for each point, by model, then depth.

        ``names`` are those of the models, ``measure`` what their accuracies are.
        """
        verdicts = {each.point: each.verdict(names) for each in self.dropped}
        width = max(map(len, (*names, "model")))
        lines = [f"{'model':{width}}  exit    {measure}      ms"]
        for point in sorted((*self.points, *verdicts), key=lambda p: (p.model, p.depth)):
            facts = f"{point.depth:4}  {short_ap(point.ap)}  {point.latency_s * 1e3:6.1f}"
            line = f"{names[point.model]:{width}}  {facts}  {verdicts.get(point, '')}"
            lines.append(line.rstrip())
        return lines


def pareto_front(points: Iterable[OperatingPoint]) -> Front:
    """Return the front of ``points``.

    Of equals, the first model's shallowest exit is on it.
    """
    front: list[OperatingPoint] = []
    dropped: list[Dropped] = []
    for point in sorted(points, key=lambda p: (p.latency_s, -p.ap, p.model, p.depth)):
        if front and point.ap <= front[-1].ap:
            dropped.append(Dropped(point, front[-1]))
        else:
            front.append(point)
    dropped.sort(key=lambda each: (each.point.model, each.point.depth))
    return Front(tuple(front), tuple(dropped))


def short_ap(ap: float) -> str:
    """Return an accuracy as in tables of the field: .618."""
    return f"{ap:.3f}".removeprefix("0")
