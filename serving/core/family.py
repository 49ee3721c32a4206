"""A family: models for the same classes that one executor serves as one.

They are the input sizes of one entry of a repository, or of several entries, such as a small and a
large backbone; each size is a *model* here, with a number. Most often a family has one entry.

A request does not name a model: it starts in the one whose operating points suit its budget and the
load, and stays in it. The depths it allows are exits of whichever model answers, so that one which
is not as deep as ``min_depth`` does not. The order of the models is that in which the entries were
named, an entry's sizes smallest first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations

from serving.core.catalog import AP, Catalog
from serving.core.ladder import Ladder, PointId
from serving.core.latency_profile import LatencyProfile
from serving.core.letterbox import ModelInput
from serving.core.merging import merge
from serving.core.model_entry import ModelEntry
from serving.core.output_check import find_fault
from serving.core.pareto_front import Front, OperatingPoint, pareto_front
from serving.core.request import Detections
from serving.core.useful_exits import UsefulExits

NUM_REMEMBERED = 4096
"""Number of answers, by their points and the depths that were allowed, of which it is remembered
whether a better one was."""
RELEASE_DIGITS = 8
"""Number of digits of a digest that name a version, beside what its author calls it."""

PathSeconds = Callable[[int, int], float]
"""Function from an exit's depth and its model's number to the seconds from an image to its
boxes."""


@dataclass(frozen=True)
class Family:
    """The entries that are served as one, at least one.

    Raises ValueError, with a sentence for who chose them, if they cannot be served as one.
    """

    entries: tuple[ModelEntry, ...]
    precision_reason: str | None = None
    """Why they are in the precision that they are in, where the server chose; one sentence."""

    def __post_init__(self) -> None:
        first, *others = self.entries
        for catalog in self.catalogs:
            if not catalog.exits:
                raise ValueError(f"{catalog.name} has no exit")
        for other in others:
            mine, its = (entry.catalogs[0].classes for entry in (first, other))
            if mine != its:
                raise ValueError(
                    f"{first.name} and {other.name} cannot be served as one, for their classes "
                    f"differ: {', '.join(mine)}; {', '.join(its)}"
                )
            ways = [entry.catalogs[0].resize for entry in (first, other)]
            if len(set(ways)) > 1:
                raise ValueError(
                    f"{first.name} and {other.name} cannot be served as one, for images become "
                    f"their inputs in different ways: by {ways[0]}; by {ways[1]}"
                )
        measures = {each.evaluation.measure for each in self.catalogs if each.evaluation}
        if len(measures) > 1:
            raise ValueError(
                f"{self.name} cannot be served as one, for what is known of them is not alike: "
                f"{', '.join(sorted(measures))}; measure all with punctual evaluate, or with "
                "punctual rank"
            )
        names = [entry.name for entry in self.entries]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two of the models to be served as one are called {name}")

    @cached_property
    def catalogs(self) -> tuple[Catalog, ...]:
        """Catalogues of all sizes of all entries, by the numbers of the models."""
        return tuple(catalog for entry in self.entries for catalog in entry.catalogs)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, each that of its entry."""
        return tuple(catalog.name for catalog in self.catalogs)

    @property
    def titles(self) -> tuple[str, ...]:
        """What the models are called in tables.

        They are called as their entries or, where one has several sizes, as in operating points.
        """
        return self.ladder.sizes if len(self.catalogs) > len(self.entries) else self.names

    @property
    def name(self) -> str:
        """Name of what is served: those of all its entries, joined."""
        return "+".join(entry.name for entry in self.entries)

    @property
    def version(self) -> str:
        """Version that all models have, or the different ones, joined."""
        return "+".join(dict.fromkeys(catalog.version for catalog in self.catalogs))

    @cached_property
    def digest(self) -> str:
        """Digest of the weights of all entries, as hexadecimal digits; of one entry, that one's."""
        digests = [entry.digest for entry in self.entries]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(f"{each}\n" for each in digests).encode()).hexdigest()

    @cached_property
    def release(self) -> str:
        """Version with the first digits of the digest, which tells versions of one name apart."""
        return f"{self.version}-{self.digest[:RELEASE_DIGITS]}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, the same for every model, in the order of their labels."""
        return self.catalogs[0].classes

    @property
    def measure(self) -> str:
        """What the figures in the place of accuracies are: one of ``catalog.MEASURES``."""
        known = (each.evaluation.measure for each in self.catalogs if each.evaluation)
        return next(known, AP)

    @property
    def score_threshold(self) -> float:
        """Score below which some model has no boxes, in 0..1."""
        return max(catalog.score_threshold for catalog in self.catalogs)

    @property
    def num_exits(self) -> int:
        """Number of exits of the model that has most."""
        return max(catalog.num_exits for catalog in self.catalogs)

    @cached_property
    def _frame(self) -> Catalog:
        """Catalogue of the model with the largest input, which is the common frame."""
        # Of equals the last, which is the one that the sizes of an entry end in.
        return max(
            reversed(self.catalogs), key=lambda catalog: catalog.input_height * catalog.input_width
        )

    @property
    def input_height(self) -> int:
        """Height of the common frame, in pixels.

        Images come and boxes go in pixels of the largest input.
        """
        return self._frame.input_height

    @property
    def input_width(self) -> int:
        """Width of the common frame, in pixels."""
        return self._frame.input_width

    @property
    def input(self) -> ModelInput:
        """What images are brought to: the common frame."""
        return self._frame.input

    @property
    def scaled_inputs(self) -> tuple[ModelInput, ...]:
        """Different inputs of the models, if images lie in all of them alike but for the scale.

        Then an image is decoded for the input that it runs at. Otherwise there is only the common
        frame, from which an image is brought to each.
        """
        inputs = tuple(dict.fromkeys(catalog.input for catalog in self.catalogs))
        return inputs if all(map(self.input.is_scaled, inputs)) else (self.input,)

    @property
    def accuracies(self) -> tuple[tuple[float, ...], ...]:
        """Accuracies (AP) of the exits of each model, shallowest first."""
        return tuple(tuple(entry.ap for entry in catalog.exits) for catalog in self.catalogs)

    def deepest(self, model: int, max_depth: int) -> int:
        """Return the deepest exit of ``model`` up to ``max_depth``."""
        return min(max_depth, self.catalogs[model].num_exits)

    def expected_ap(self, model: int, depth: int) -> float:
        """Return the AP of exit ``depth`` of ``model``, as measured."""
        return self.catalogs[model].expected_ap(depth)

    @cached_property
    def ladder(self) -> Ladder:
        """Operating points of all models, by name.

        Sizes are called as ``300x300``, of several entries as ``name@300x300``.
        """
        several = len(self.entries) > 1
        sizes = (f"{each.name}@{each.size}" if several else each.size for each in self.catalogs)
        return Ladder(tuple(sizes), self.accuracies, self._merged)

    @property
    def _merged(self) -> Mapping[PointId, Mapping[PointId, float]]:
        """Accuracies of merged answers, by the two points."""
        aps: dict[PointId, dict[PointId, float]] = {}
        start = 0
        for entry in self.entries:
            number = {size: start + index for index, size in enumerate(entry.sizes)}
            for each in entry.merged_in(entry.catalogs[0].precision):
                first, then = ((number[of.size], of.depth) for of in (each.first, each.then))
                aps.setdefault(first, {})[then] = each.ap
            start += len(entry.catalogs)
        return aps

    def label(self, model: int, depth: int) -> str:
        """Return what the operating point is called, such as ``300x300/1``."""
        return self.ladder.label((model, depth))

    def answer_label(self, points: Sequence[PointId]) -> str:
        """Return the names of the operating points that an answer is of, joined by +."""
        return self.ladder.answer_label(points)

    def answer_ap(self, points: Sequence[PointId]) -> float:
        """Return the AP of an answer of these operating points, one merged into the next.

        Of two it is as measured; of more, of which nothing was measured, that of their best pair.
        """
        if len(points) == 1:
            return self.expected_ap(*points[0])
        return max(self.merged_ap(first, then) for first, then in combinations(points, 2))

    def merged_ap(self, first: PointId, then: PointId) -> float:
        """Return the AP of the answer of a request that ran at ``first`` and later at ``then``.

        Where nothing is merged, or it was not measured, it is that of the better one.
        """
        return self.ladder.merged_ap(first, then)

    def merge(
        self, first: tuple[int, Detections], then: tuple[int, Detections]
    ) -> Detections | None:
        """Return the answer of a model, ``then``, with that of a smaller input merged in.

        It is best first. Each is a model's number with its answer. Boxes are in pixels of the
        common frame. None where such answers are not merged: of different entries, of one that does
        not say how, or of a model that has no larger input than the first.
        """
        (first_model, first_found), (then_model, then_found) = first, then
        entry = self._entry_of(then_model)
        if entry.merging is None or self._entry_of(first_model) is not entry:
            return None
        if then_model <= first_model:
            return None
        catalog = self.catalogs[then_model]
        area = catalog.input_width * catalog.input_height
        return merge(
            first_found,
            then_found,
            entry.merging,
            scale=math.sqrt(area / (self.input_width * self.input_height)),
            max_detections=catalog.max_detections,
        )

    def find_fault(self, found: Detections) -> str | None:
        """Return what is wrong with an answer in pixels of the common frame; None if nothing is.

        See ``output_check.find_fault``.
        """
        side, num_classes, most = self._limits
        return find_fault(found, side, num_classes, most)

    @cached_property
    def _limits(self) -> tuple[int, int, int]:
        """Longer side of the common frame, number of classes, and most boxes of any model."""
        most = max(catalog.max_detections for catalog in self.catalogs)
        return max(self.input_width, self.input_height), len(self.classes), most

    def _entry_of(self, model: int) -> ModelEntry:
        """Return the entry that ``model`` is a size of."""
        name = self.catalogs[model].name
        return next(entry for entry in self.entries if entry.name == name)

    @cached_property
    def _useful_ap(self) -> Mapping[PointId, float]:
        """Accuracy of each point, by model, then depth; where not measured, rising with depth."""
        return {
            (model, depth): useful.ap(depth)
            for model, useful in enumerate(map(UsefulExits, self.accuracies))
            for depth in range(1, useful.num_exits + 1)
        }

    def degraded(self, points: Sequence[PointId], min_depth: int, max_depth: int) -> bool:
        """Return whether a more accurate answer than that of ``points`` was allowed.

        ``points`` are those that a request ran at, one after the other. Allowed are exits from
        ``min_depth`` to ``max_depth``, of any model, and two of them merged. As for the policy, of
        a model whose accuracies were not measured the deeper exit is the more accurate one.
        """
        return self._remembered(tuple(points), min_depth, max_depth)

    @cached_property
    def _remembered(self) -> Callable[[tuple[PointId, ...], int, int], bool]:
        """Function that returns what ``degraded`` does, which takes time and is often asked."""
        return lru_cache(NUM_REMEMBERED)(self._find_degraded)

    def _find_degraded(self, points: tuple[PointId, ...], min_depth: int, max_depth: int) -> bool:
        useful_ap = self._useful_ap
        allowed = {point for point in useful_ap if min_depth <= point[1] <= max_depth}
        best_ap = max(useful_ap[point] for point in allowed)
        ap = max(useful_ap[point] for point in points)
        for first, then, merged_ap in self.ladder.gains():
            if {first, then} <= allowed:
                best_ap = max(best_ap, merged_ap)
            if (first, then) in combinations(points, 2):
                ap = max(ap, merged_ap)
        return ap < best_ap

    def front(self, seconds: PathSeconds) -> Front:
        """Return the Pareto front of all exits: those that are worth the time they take."""
        return pareto_front(
            OperatingPoint(model, depth, seconds(depth, model), ap)
            for (model, depth), ap in self._useful_ap.items()
        )

    def profile(self, runtime: str) -> LatencyProfile | None:
        """Return what was measured of the models on ``runtime``, as one table.

        None if nothing was.
        """
        measured = [
            (model, catalog.profiles[runtime])
            for model, catalog in enumerate(self.catalogs)
            if runtime in catalog.profiles
        ]
        return LatencyProfile.merged(measured) if measured else None
