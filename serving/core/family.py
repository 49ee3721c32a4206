"""A family: models for the same classes that one executor serves as one, such as a small and a
large backbone, or two input sizes. Most often it has one member.

A request does not name a model: it starts in the one whose operating points suit its budget and the
load, and stays in it. The depths it allows are exits of whichever model answers, so that one which
is not as deep as ``min_depth`` does not. The order of the models is that in which they were named,
and means nothing but their numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from serving.core.catalog import Catalog
from serving.core.latency import LatencyProfile
from serving.core.pareto_front import Front, OperatingPoint, pareto_front
from serving.core.useful_exits import UsefulExits

PathSeconds = Callable[[int, int], float]
"""Seconds from an image to the boxes of an exit, by its depth and its model's number."""


@dataclass(frozen=True)
class Family:
    """The catalogues of the models, at least one. Raises ValueError, with a sentence for who chose
    them, if they cannot be served as one."""

    catalogs: tuple[Catalog, ...]

    def __post_init__(self) -> None:
        first, *others = self.catalogs
        for other in others:
            if other.classes != first.classes:
                raise ValueError(
                    f"{first.name} and {other.name} cannot be served as one, for their classes "
                    f"differ: {', '.join(first.classes)}; {', '.join(other.classes)}"
                )
        for name in self.names:
            if self.names.count(name) > 1:
                raise ValueError(f"two of the models to be served as one are called {name}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models."""
        return tuple(catalog.name for catalog in self.catalogs)

    @property
    def name(self) -> str:
        """What is served is called after all its models."""
        return "+".join(self.names)

    @property
    def version(self) -> str:
        """That of all models, or those of each."""
        return "+".join(dict.fromkeys(catalog.version for catalog in self.catalogs))

    @property
    def classes(self) -> tuple[str, ...]:
        """Of every model, in the order of their labels."""
        return self.catalogs[0].classes

    @property
    def score_threshold(self) -> float:
        """Some model has no boxes below it."""
        return max(catalog.score_threshold for catalog in self.catalogs)

    @property
    def num_exits(self) -> int:
        """Of the model that has most."""
        return max(catalog.num_exits for catalog in self.catalogs)

    @cached_property
    def _frame(self) -> Catalog:
        return max(self.catalogs, key=lambda catalog: catalog.input_height * catalog.input_width)

    @property
    def input_height(self) -> int:
        """Of the common frame: images come and boxes go in pixels of the largest input."""
        return self._frame.input_height

    @property
    def input_width(self) -> int:
        """Of the common frame."""
        return self._frame.input_width

    @property
    def accuracies(self) -> tuple[tuple[float, ...], ...]:
        """AP of the exits of each model, shallowest first."""
        return tuple(tuple(entry.ap for entry in catalog.exits) for catalog in self.catalogs)

    @cached_property
    def _useful_exits(self) -> tuple[UsefulExits, ...]:
        return tuple(map(UsefulExits, self.accuracies))

    def deepest(self, model: int, max_depth: int) -> int:
        """The deepest exit of ``model`` up to ``max_depth``."""
        return min(max_depth, self.catalogs[model].num_exits)

    def expected_ap(self, model: int, depth: int) -> float:
        """AP of exit ``depth`` of ``model``, as measured."""
        return self.catalogs[model].expected_ap(depth)

    def degraded(self, model: int, depth: int, min_depth: int, max_depth: int) -> bool:
        """Whether an exit from ``min_depth`` to ``max_depth``, of any model, is more accurate than
        exit ``depth`` of ``model``. As for the policy, that is the deeper one of a model whose
        accuracies were not measured."""
        best_ap = max(
            useful.ap(allowed)
            for other, useful in enumerate(self._useful_exits)
            for allowed in range(min_depth, self.deepest(other, max_depth) + 1)
        )
        return self._useful_exits[model].ap(depth) < best_ap

    def front(self, seconds: PathSeconds) -> Front:
        """The exits that are worth the time they take."""
        return pareto_front(
            OperatingPoint(model, depth, seconds(depth, model), useful.ap(depth))
            for model, useful in enumerate(self._useful_exits)
            for depth in range(1, useful.num_exits + 1)
        )

    def profile(self, runtime: str) -> LatencyProfile | None:
        """What was measured of the models on ``runtime``, as one table; None if nothing was."""
        measured = [
            (model, catalog.profiles[runtime])
            for model, catalog in enumerate(self.catalogs)
            if runtime in catalog.profiles
        ]
        return LatencyProfile.merged(measured) if measured else None
