"""Arrival processes: when requests arrive, at any mean rate, by the name that a short text gives.

All but the recorded trace are one construction: a renewal process at rate 1, whose gaps have mean 1
and squared coefficient of variation CV2, in a time that runs as fast as the rate of the moment
(Cinlar, Introduction to Stochastic Processes, 1975, section 4.7):

    offset = inverse of (integral of the rate) at (sum of the gaps)

================================= ==================================================================
``poisson``                       independent arrivals
``constant``                      equal gaps, a random phase
``gamma:CV2``                     gaps of a gamma distribution; above 1 it is burstier than Poisson
``ramp:FROM:TO``                  Poisson, the rate changes linearly over the run; FROM and TO are
                                  relative, the mean stays the asked rate
``onoff:ON_S:OFF_S[:LOW]``        Poisson, LOW (0) times as much in off; the mean over a cycle stays
                                  the asked rate
``burst:START_S:LENGTH_S:FACTOR`` Poisson at the asked rate, FACTOR times that within the window
``trace:FILE``                    a CSV file's column ``offset_s``, or a name in loadtest/traces
================================= ==================================================================
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.core.command_errors import InvalidArgument

MAX_ARRIVALS = 10_000_000
"""Largest number of requests in one run, and in one trace file."""
MAX_PIECES = 1_000_000
TRACES = Path(__file__).parents[1] / "traces"


class _Process(Protocol):
    """An arrival process that draws ascending offsets in [0, duration_s) at a mean rate."""

    def draw(
        self, rate_hz: float, duration_s: float, rng: np.random.Generator
    ) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Arrivals:
    """A point process, and the text that names it."""

    name: str
    digest: str | None
    """First 16 hexadecimal digits of a trace's SHA-256; None for any other process."""
    process: _Process

    @property
    def follows_schedule(self) -> bool:
        """Return whether the rate changes at instants of the run that no seed moves."""
        return isinstance(self.process, _Renewal) and not isinstance(self.process.curve, _Flat)

    @property
    def burst_s(self) -> tuple[float, float] | None:
        """Return start and end of the burst in seconds; None if the process is not a burst."""
        curve = self.process.curve if isinstance(self.process, _Renewal) else None
        if not isinstance(curve, _Burst):
            return None
        return curve.start_s, curve.start_s + curve.length_s

    def offsets_s(
        self, rate_hz: float, duration_s: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Draw ascending offsets in [0, duration_s), in seconds; perhaps none.

        Raises ValueError for a rate or a duration that is not positive and finite, or for more than
        MAX_ARRIVALS.
        """
        for name, value in (("rate", rate_hz), ("duration", duration_s)):
            if not (math.isfinite(value) and value > 0):
                raise InvalidArgument(
                    f"the {name} of arrivals must be positive and finite, not {value}"
                )
        if rate_hz * duration_s > MAX_ARRIVALS:
            raise InvalidArgument(
                f"{rate_hz:g} requests a second for {duration_s:g} s are more than {MAX_ARRIVALS:,}"
            )
        return self.process.draw(rate_hz, duration_s, rng)


def parse_arrivals(text: str) -> Arrivals:
    """Return the process that ``text`` names, as the table at this module's head describes.

    Raises ValueError, with a sentence, for anything else, and for a trace that cannot be read.
    """
    kind, _, rest = text.partition(":")
    if kind == "trace":
        content = _read_trace(rest)
        digest = hashlib.sha256(content).hexdigest()[:16]
        return Arrivals(text, digest, _Trace(_parse_trace(rest, content)))
    try:
        least, most, make = _KINDS[kind]
    except KeyError:
        kinds = ", ".join([*_KINDS, "trace"])
        raise InvalidArgument(f"arrivals {text!r}: not one of {kinds}") from None
    try:
        numbers = [float(part) for part in rest.split(":")] if rest else []
    except ValueError:
        raise InvalidArgument(f"arrivals {text!r}: {rest!r} is not made of numbers") from None
    if not least <= len(numbers) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise InvalidArgument(
            f"arrivals {text!r}: {kind} takes {wanted} numbers, not {len(numbers)}"
        )
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise InvalidArgument(f"arrivals {text!r}: numbers must be finite and not negative")
    try:
        return Arrivals(text, None, make(*numbers))
    except ValueError as error:
        raise InvalidArgument(f"arrivals {text!r}: {error}") from None


Pieces = NDArray[np.float64]
"""Pieces of a relative rate, [n, 4]: start (s), length (s), rate at start and at end."""
_Curve = Callable[[float], Pieces]


@dataclass(frozen=True)
class _Flat:
    def __call__(self, duration_s: float) -> Pieces:
        return np.array([[0.0, duration_s, 1.0, 1.0]])


@dataclass(frozen=True)
class _Ramp:
    first: float
    last: float

    def __post_init__(self) -> None:
        if self.first + self.last == 0:
            raise InvalidArgument("one of the two rates must be positive")

    def __call__(self, duration_s: float) -> Pieces:
        mean = (self.first + self.last) / 2
        return np.array([[0.0, duration_s, self.first / mean, self.last / mean]])


@dataclass(frozen=True)
class _OnOff:
    on_s: float
    off_s: float
    low: float = 0.0

    def __post_init__(self) -> None:
        if self.on_s == 0:
            raise InvalidArgument("the time that it is on must be positive")

    def __call__(self, duration_s: float) -> Pieces:
        cycle_s = self.on_s + self.off_s
        num_cycles = math.ceil(duration_s / cycle_s)
        if num_cycles > MAX_PIECES:
            raise InvalidArgument(f"cycles of {cycle_s:g} s are too short for {duration_s:g} s")
        high = cycle_s / (self.on_s + self.low * self.off_s)
        cycle = np.array(
            [[0.0, self.on_s, high, high], [self.on_s, self.off_s, *[high * self.low] * 2]]
        )
        pieces = np.tile(cycle, (num_cycles, 1))
        pieces[:, 0] += np.repeat(np.arange(num_cycles) * cycle_s, 2)
        return _clip(pieces, duration_s)


@dataclass(frozen=True)
class _Burst:
    start_s: float
    length_s: float
    factor: float

    def __call__(self, duration_s: float) -> Pieces:
        end_s = self.start_s + self.length_s
        pieces = np.array(
            [
                [0.0, self.start_s, 1.0, 1.0],
                [self.start_s, self.length_s, self.factor, self.factor],
                [end_s, max(0.0, duration_s - end_s), 1.0, 1.0],
            ]
        )
        return _clip(pieces, duration_s)


def _clip(pieces: Pieces, duration_s: float) -> Pieces:
    """Cut pieces of constant rate so that none of them goes on after ``duration_s``."""
    pieces = pieces[pieces[:, 0] < duration_s]
    pieces[:, 1] = np.minimum(pieces[:, 1], duration_s - pieces[:, 0])
    return pieces


@dataclass(frozen=True)
class _Renewal:
    """A renewal process with gamma gaps of mean 1, in a time that a curve bends.

    The process is in equilibrium from the start on, so that the mean count is exactly the integral
    of the rate: its first gap is a uniform share of a gap chosen in proportion to its length.
    """

    cv2: float
    curve: _Curve

    def __post_init__(self) -> None:
        if not 0 <= self.cv2 <= 1000:
            raise InvalidArgument("the squared coefficient of variation must be in (0, 1000]")

    def draw(
        self, rate_hz: float, duration_s: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        pieces = self.curve(duration_s)
        expected = rate_hz * float((pieces[:, 1] * (pieces[:, 2] + pieces[:, 3])).sum() / 2)
        if expected > MAX_ARRIVALS:
            raise InvalidArgument(f"{expected:,.0f} requests are more than {MAX_ARRIVALS:,}")
        # Time 0 lies in a gap that is long in proportion to its length: gamma of shape + 1.
        first = 1.0 if self.cv2 == 0 else float(rng.gamma(1 / self.cv2 + 1, self.cv2))
        reached = first * float(rng.random())
        chunks = [np.array([reached])]
        while reached < expected:
            size = int((expected - reached) * 1.05) + 64
            gaps = np.ones(size) if self.cv2 == 0 else rng.gamma(1 / self.cv2, self.cv2, size)
            chunks.append(reached + np.cumsum(gaps))
            reached = float(chunks[-1][-1])
        counts = np.concatenate(chunks)
        offsets = _invert(pieces, counts[counts < expected] / rate_hz)
        return offsets[offsets < duration_s]  # rounding may reach the end


def _invert(pieces: Pieces, integrals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the times at which the integral of the relative rate reaches ``integrals``."""
    start, length, first, last = pieces.T
    edges = np.concatenate([[0.0], np.cumsum(length * (first + last) / 2)])
    i = np.minimum(np.searchsorted(edges, integrals, side="right") - 1, len(pieces) - 1)
    rest = integrals - edges[i]
    # The root of first * x + slope / 2 * x^2 = rest, in the form that does not cancel.
    slope = (last[i] - first[i]) / length[i]
    root = np.sqrt(np.maximum(0.0, first[i] ** 2 + 2 * slope * rest))
    bottom = first[i] + root
    inside = np.divide(2 * rest, bottom, out=np.zeros_like(rest), where=bottom > 0)
    offsets: NDArray[np.float64] = start[i] + np.minimum(inside, length[i])
    return offsets


@dataclass(frozen=True)
class _Trace:
    """A recorded trace, of which a run replays consecutive requests from a random place on.

    The recording begins anew where it ends; time is rescaled so that as many requests as asked last
    the run.
    """

    recorded_s: NDArray[np.float64]

    def draw(
        self, rate_hz: float, duration_s: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        num_recorded = len(self.recorded_s)
        count = round(rate_hz * duration_s)
        index = int(rng.integers(num_recorded)) + np.arange(count + 1)
        span_s = self.recorded_s[-1] - self.recorded_s[0]
        period_s = span_s * num_recorded / (num_recorded - 1)  # and a mean gap before it repeats
        times = self.recorded_s[index % num_recorded] + index // num_recorded * period_s
        times -= times[0]
        if times[-1] == 0:  # so few that all of them share a timestamp
            return np.zeros(count)
        offsets: NDArray[np.float64] = times[:-1] * (duration_s / times[-1])
        return np.minimum(offsets, np.nextafter(duration_s, 0))


def _read_trace(name: str) -> bytes:
    shipped = TRACES / f"{name}.csv"
    path = shipped if shipped.parent == TRACES and shipped.is_file() else Path(name)
    try:
        return path.read_bytes()
    except OSError as error:
        known = ", ".join(sorted(path.stem for path in TRACES.glob("*.csv")))
        raise InvalidArgument(
            f"trace {name!r} is neither a readable file ({error.strerror}) nor one of {known}"
        ) from error


def _parse_trace(name: str, content: bytes) -> NDArray[np.float64]:
    try:
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
        offsets = np.array([float(row["offset_s"]) for row in rows], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        raise InvalidArgument(f"trace {name!r} has no column offset_s of numbers") from None
    if not 2 <= len(offsets) <= MAX_ARRIVALS:
        raise InvalidArgument(f"trace {name!r} must have 2 to {MAX_ARRIVALS:,} requests")
    if not (np.isfinite(offsets).all() and (np.diff(offsets) >= 0).all()):
        raise InvalidArgument(f"trace {name!r}: offset_s must be finite and ascending")
    if offsets[0] == offsets[-1]:
        raise InvalidArgument(f"trace {name!r}: all requests come at the same time")
    return offsets


def _gamma(cv2: float) -> _Renewal:
    if cv2 == 0:
        raise InvalidArgument("CV2 must be positive; equal gaps are called constant")
    return _Renewal(cv2, _Flat())


_KINDS: Mapping[str, tuple[int, int, Callable[..., _Process]]] = {
    "poisson": (0, 0, lambda: _Renewal(1.0, _Flat())),
    "constant": (0, 0, lambda: _Renewal(0.0, _Flat())),
    "gamma": (1, 1, _gamma),
    "ramp": (2, 2, lambda first, last: _Renewal(1.0, _Ramp(first, last))),
    "onoff": (2, 3, lambda *numbers: _Renewal(1.0, _OnOff(*numbers))),
    "burst": (3, 3, lambda *numbers: _Renewal(1.0, _Burst(*numbers))),
}
"""Kind of process -> how many numbers it takes at least and at most, and how it is made of them."""
