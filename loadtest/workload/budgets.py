"""Distributions of the time that requests allow, by the name that a short text gives.

========================== =========================================================================
``1.2x,2x,4x``             multiples of the full-depth time, equally often
``40,80``                  milliseconds
``1.2x@2,400@1``           with weights, and mixed
``uniform:LOW:HIGH``       milliseconds
``lognormal:MEDIAN:SIGMA`` milliseconds, and the standard deviation of the logarithm
========================== =========================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.core.command_errors import InvalidArgument

MAX_CHOICES = 100
MAX_SIGMA = 5.0


class _Distribution(Protocol):
    """A distribution that draws budgets in seconds."""

    def draw(
        self, count: int, full_depth_s: float, rng: np.random.Generator
    ) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Budgets:
    """A distribution of budgets, and the text that names it."""

    name: str
    distribution: _Distribution

    def sample_s(
        self, count: int, full_depth_s: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw ``count`` budgets in seconds.

        Multiples are of ``full_depth_s``, the time that an idle server takes for a request at full
        depth. Raises ValueError if that is not positive.
        """
        if not (math.isfinite(full_depth_s) and full_depth_s > 0):
            raise InvalidArgument(f"the full-depth time must be positive, not {full_depth_s}")
        return self.distribution.draw(count, full_depth_s, rng)


@dataclass(frozen=True)
class _Mixture:
    multiples: tuple[float, ...]
    """Multiple of the full-depth time that each choice is; 0 for a choice in seconds."""
    seconds: tuple[float, ...]
    weights: tuple[float, ...]

    def draw(
        self, count: int, full_depth_s: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        values = np.array(self.multiples) * full_depth_s + np.array(self.seconds)
        weights = np.array(self.weights)
        return rng.choice(values, size=count, p=weights / weights.sum())


@dataclass(frozen=True)
class _Uniform:
    low_s: float
    high_s: float

    def draw(
        self, count: int, full_depth_s: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        return rng.uniform(self.low_s, self.high_s, count)


@dataclass(frozen=True)
class _Lognormal:
    median_s: float
    sigma: float

    def draw(
        self, count: int, full_depth_s: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        return self.median_s * rng.lognormal(0.0, self.sigma, count)


def parse_budgets(text: str) -> Budgets:
    """Return the distribution that ``text`` names, as the table at this module's head describes.

    Raises ValueError, with a sentence, for anything else.
    """
    kind, colon, rest = text.partition(":")
    if not colon:
        return Budgets(text, _mixture(text))
    if kind not in {"uniform", "lognormal"}:
        raise InvalidArgument(f"budgets {text!r}: {kind!r} is neither uniform nor lognormal")
    first, _, second = rest.partition(":")
    a, b = _number(text, first), _number(text, second)
    if kind == "uniform":
        if not 0 < a <= b:
            raise InvalidArgument(f"budgets {text!r}: needs 0 < LOW <= HIGH, in milliseconds")
        return Budgets(text, _Uniform(a / 1e3, b / 1e3))
    if not (a > 0 and 0 <= b <= MAX_SIGMA):
        raise InvalidArgument(
            f"budgets {text!r}: needs MEDIAN > 0 and SIGMA from 0 to {MAX_SIGMA:g}"
        )
    return Budgets(text, _Lognormal(a / 1e3, b))


def _mixture(text: str) -> _Mixture:
    choices = text.split(",")
    if len(choices) > MAX_CHOICES:
        raise InvalidArgument(f"{len(choices)} budgets are more than {MAX_CHOICES}")
    multiples, seconds, weights = [], [], []
    for choice in choices:
        value_text, at, weight_text = choice.strip().partition("@")
        is_multiple = value_text.endswith("x")
        value = _number(text, value_text.removesuffix("x"))
        weight = _number(text, weight_text) if at else 1.0
        if value <= 0 or weight <= 0:
            raise InvalidArgument(f"budgets {text!r}: budgets and weights must be positive")
        multiples.append(value if is_multiple else 0.0)
        seconds.append(0.0 if is_multiple else value / 1e3)
        weights.append(weight)
    return _Mixture(tuple(multiples), tuple(seconds), tuple(weights))


def _number(text: str, part: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidArgument(f"budgets {text!r}: {part!r} is not a number")
    return value
