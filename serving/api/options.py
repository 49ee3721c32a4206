"""Options that a client may choose for one image, in the query string or in a message's parameters.

One table says how each is read, its bounds, and how the API description shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.api.cutting import Cut
from serving.api.frames import FrameId
from serving.api.numbers import LARGEST, decimal, integer, shown
from serving.api.wanted_classes import CLASSES, parse_classes
from serving.core.errors import InvalidParameter
from serving.core.family import Family
from serving.core.request import Detections


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one request: ``min_depth <= max_depth <= num_exits``; scores in 0..1."""

    min_depth: int
    max_depth: int
    score_threshold: float
    classes: frozenset[int] | None = None
    """Classes that boxes are wanted of, by label; None for all."""
    frame: FrameId | None = None
    """Which frame of which stream the image is; None if it is of none."""
    track: bool = False
    """Whether the boxes of a frame are to say which object they are of."""
    cut: Cut | None = None
    """How the image is cut into parts; None if it is not."""

    def wanted(self, detections: Detections) -> npt.NDArray[np.bool_]:
        """Return which of ``detections`` are wanted, ``(N,)``."""
        kept: npt.NDArray[np.bool_] = detections.scores >= self.score_threshold
        if self.classes is not None:
            kept &= np.isin(detections.labels, tuple(self.classes))
        return kept


@dataclass(frozen=True, slots=True)
class _Parameter:
    parse: Callable[[str], float | None]
    kind: str
    low: Callable[[Family], float]
    high: Callable[[Family], float | None]
    default: Callable[[Family], float]
    text: str
    example: str = ""
    """How a value is written, where that is not plain."""


_PARAMETERS = {
    "min_depth": _Parameter(
        integer,
        "integer",
        low=lambda _: 1,
        high=lambda family: family.num_exits,
        default=lambda _: 1,
        text="Shallowest exit that is worth an answer.",
    ),
    "max_depth": _Parameter(
        integer,
        "integer",
        low=lambda _: 1,
        high=lambda _: None,
        default=lambda family: family.num_exits,
        text="Deepest exit wanted; more than a model has means its deepest.",
    ),
    "score_threshold": _Parameter(
        decimal,
        "number",
        low=lambda family: family.score_threshold,
        high=lambda _: 1.0,
        default=lambda family: family.score_threshold,
        text="Boxes below it are left out.",
        example="0.4",
    ),
}


def parse_options(
    given: Iterable[tuple[str, object]],
    family: Family,
    others: Iterable[str] = (),
) -> Options:
    """Return the options in names and values, which are text or what JSON holds.

    ``others`` are names that are read elsewhere, for the sentence that lists what there is. Raises
    InvalidParameter for what is unknown, repeated, malformed or out of range.
    """
    values: dict[str, float] = {}
    classes: frozenset[int] | None = None
    for name, value in given:
        if name != CLASSES and name not in _PARAMETERS:
            known = ", ".join((*_PARAMETERS, CLASSES, *others))
            raise InvalidParameter(f"There is no parameter {shown(name)}; there are {known}.")
        if name in values or (name == CLASSES and classes is not None):
            raise InvalidParameter(f"{name} was given more than once.")
        if name == CLASSES:
            classes = parse_classes(value, family.classes)
        else:
            values[name] = _parse(name, _PARAMETERS[name], value, family)
    for name, parameter in _PARAMETERS.items():
        values.setdefault(name, parameter.default(family))
    min_depth = int(values["min_depth"])
    max_depth = min(int(values["max_depth"]), family.num_exits)
    if min_depth > max_depth:
        raise InvalidParameter(f"min_depth, {min_depth}, is above max_depth, {max_depth}.")
    return Options(min_depth, max_depth, values["score_threshold"], classes)


def _number(parameter: _Parameter, given: object) -> float | None:
    # type(), since a bool is an int to isinstance().
    if type(given) is int or (type(given) is float and parameter.kind == "number"):
        return given
    return parameter.parse(given) if isinstance(given, str) else None


def _parse(name: str, parameter: _Parameter, given: object, family: Family) -> float:
    value = _number(parameter, given)
    low, high = parameter.low(family), parameter.high(family)
    # What JSON holds may be NaN, which is neither below nor above anything.
    if value is None or not (low <= value and (high is None or value <= high)):
        bounds = f"from {low:g}" + (f" to {high:g}" if high is not None else " up")
        written = f", such as {parameter.example}" if parameter.example else ""
        raise InvalidParameter(
            f"{name} must be one {parameter.kind} {bounds}{written}; it is {shown(given)}."
        )
    return value


def describe_options(family: Family) -> list[dict[str, Any]]:
    """Return the parameters as OpenAPI objects."""
    return [
        {
            "name": name,
            "in": "query",
            "description": parameter.text,
            "schema": {
                "type": parameter.kind,
                "minimum": parameter.low(family),
                "default": parameter.default(family),
                "maximum": parameter.high(family) or LARGEST,
            },
        }
        for name, parameter in _PARAMETERS.items()
    ] + [
        {
            "name": CLASSES,
            "in": "query",
            "description": "Classes that boxes are wanted of, with commas between them: names, in "
            "upper or lower case, or numbers as replies have them in `class_id`. Without it, all.",
            "style": "form",
            "explode": False,
            "schema": {
                "type": "array",
                "minItems": 1,
                "maxItems": len(family.classes),
                "items": {
                    "anyOf": [
                        {"enum": list(family.classes)},
                        {"type": "integer", "minimum": 0, "maximum": len(family.classes) - 1},
                    ]
                },
            },
            "example": [family.classes[0]],
        }
    ]
