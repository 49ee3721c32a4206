"""Model profiles: the facts that a simulation knows of a model.

They are the accuracies of its operating points and how long its segments take.

A profile is a small JSON file, in ``loadtest/profiles`` or anywhere. It either points to the
catalogue of a measured model or describes a made-up one by a few numbers. Input sizes have no
features in common. For each, smallest first,

    stem, stack, head at a batch of b  =  its time * (batch_fixed + (1 - batch_fixed) * b)
    exit_k                             =  fused * the sum of its parts

and ``merged`` says of some pairs of operating points what the answer of the later one is worth when
that of the earlier one is merged in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.core.command_errors import InvalidArgument, invalid_arguments
from serving.core.family import Family
from serving.core.ladder import SIZE, Ladder, PointId
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.model_entry import ModelEntry
from serving.core.segment import Segment, every_segment, fused_exit, unit_path

FORMAT = 2
FOLDER = Path(__file__).parents[1] / "profiles"
_HEAD = ("format", "name", "description")
_MEASURED = (*_HEAD, "catalog", "runtime")
_MADE_UP = (*_HEAD, "sizes", "merged", "batch_sizes", "batch_fixed", "fused", "jitter")
_UNITS = ("stem", "stack", "head")
_SIZE = ("size", "accuracy", *(f"{kind}_ms" for kind in _UNITS))
_MERGED = ("first", "then", "ap")
_EXPONENTIAL = {q: -math.log1p(-q) for q in (0.5, 0.9, 0.99)}
"""Quantile -> its value, of the exponential distribution with mean 1."""


@dataclass(frozen=True)
class ModelProfile:
    """The profile of one model on one runtime and machine."""

    name: str
    description: str
    ladder: Ladder
    """The operating points, of one or several input sizes."""
    latency: LatencyProfile
    """Times of the segments of all input sizes."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Return all segments that were profiled, in order."""
        return tuple(sorted({segment for segment, _ in self.latency.table}))

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Return all batch sizes that were profiled, smallest first."""
        return tuple(sorted({size for _, size in self.latency.table}))

    def quickest_s(self, point: PointId, batch: int = 1) -> float:
        """Return the typical seconds from the image to the boxes of ``point``.

        They are those of the quickest path that there is. Raises ValueError if there is no path at
        this batch size.
        """
        number, depth = point
        table = self.latency.table
        units, fused = unit_path(depth), (fused_exit(depth),)
        paths = ([part.of(number) for part in path] for path in (units, fused))
        times = [
            sum(table[segment, batch].p50_s for segment in path)
            for path in paths
            if all((segment, batch) in table for segment in path)
        ]
        if not times:
            label = self.ladder.label(point)
            raise InvalidArgument(
                f"profile {self.name} has no path to {label} in batches of {batch}"
            )
        return min(times)

    @property
    def best_point(self) -> PointId:
        """Return the most accurate operating point; of equals the quickest."""
        return max(self.ladder.points, key=lambda p: (self.ladder.ap(p), -self.quickest_s(p)))

    @property
    def full_depth_s(self) -> float:
        """Return the seconds that an idle server typically takes at the most accurate point."""
        return self.quickest_s(self.best_point)

    def rate_hz(self, point: PointId) -> float:
        """Return the requests per second that one executor answers at an operating point.

        Batches are of the size that is best for it.
        """
        return max(size / self.quickest_s(point, size) for size in self.batch_sizes)

    @property
    def capacity_hz(self) -> float:
        """Return the requests per second that one executor answers at the quickest point.

        That is a load of 1.
        """
        return max(map(self.rate_hz, self.ladder.points))


def load_profile(name: str) -> ModelProfile:
    """Read the profile called ``name`` in ``loadtest/profiles``, or that in the file ``name``.

    A file may be a profile, or a model's catalogue (of its first runtime). Raises ValueError for
    anything else.
    """
    shipped = FOLDER / f"{name}.json"
    path = shipped if shipped.parent == FOLDER and shipped.is_file() else Path(name)
    data = _read(path, f"profile {name!r}")
    if "classes" in data:
        return _of_catalog(data, path, None)
    if data.get("format") != FORMAT:
        raise InvalidArgument(f"profile {name!r} is in format {data.get('format')!r}, not {FORMAT}")
    what = f"profile {name!r}"
    if "catalog" in data:
        _check_keys(data, _MEASURED, what)
        for key in ("catalog", "runtime", "name"):
            if not isinstance(data[key], str):
                raise InvalidArgument(f"{what} has a {key!r} that is no text")
        target = path.parent / data["catalog"]
        content = _read(target, f"the catalogue of profile {name!r}")
        return _of_catalog(content, target, data["runtime"], data["name"])
    _check_keys(data, _MADE_UP, what)
    try:
        return _made_up(data, what)
    except (TypeError, AttributeError, OverflowError) as error:
        raise InvalidArgument(f"{what} has a malformed entry: {error}") from error


def _check_keys(data: Mapping[str, Any], expected: Collection[str], what: str) -> None:
    """Raise InvalidArgument unless the keys of ``data`` are the expected ones."""
    for key in expected:
        if key not in data:
            raise InvalidArgument(f"{what} lacks {key!r}")
    for key in data:
        if key not in expected:
            raise InvalidArgument(f"{what} has {key!r}, which nothing reads")


def one_sided_quantiles(p50_s: float, jitter: float) -> Quantiles:
    """Return the quantiles of a time with median ``p50_s`` and one-sided jitter.

    It exceeds its minimum by an exponential share, as ``simulator.ServiceTimes`` has it.
    """
    least_s = p50_s / (1 + jitter * _EXPONENTIAL[0.5])
    return Quantiles(*(least_s * (1 + jitter * value) for value in _EXPONENTIAL.values()))


def _read(path: Path, what: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.json")))
        raise InvalidArgument(
            f"{what} is neither a readable file ({error.strerror}) nor one of {known}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidArgument(f"{what} is not a JSON object")
    return data


def _of_catalog(
    data: Mapping[str, Any], path: Path, runtime: str | None, name: str | None = None
) -> ModelProfile:
    with invalid_arguments():
        family = Family((ModelEntry.from_json(data),))
    runtimes = [set(catalog.profiles) for catalog in family.catalogs]
    chosen = runtime or min(set.intersection(*runtimes), default=None)
    if chosen is None:
        raise InvalidArgument(f"the catalogue {path} has no latency profile")
    if not all(chosen in of_size for of_size in runtimes):
        raise InvalidArgument(f"the catalogue {path} has no profile of {chosen!r}")
    profile = family.profile(chosen)
    assert profile is not None
    description = family.catalogs[0].description
    return ModelProfile(name or family.name, description, family.ladder, profile)


def _made_up(data: Mapping[str, Any], what: str) -> ModelProfile:
    sizes: Sequence[Mapping[str, Any]] = data["sizes"]
    for number, each in enumerate(sizes, start=1):
        _check_keys(each, _SIZE, f"size {number} of {what}")
        if not SIZE.fullmatch(each["size"]):
            raise InvalidArgument(f"{what} calls a size {each['size']!r}, not WIDTHxHEIGHT")
    fixed, fused, jitter = data["batch_fixed"], data["fused"], data["jitter"]
    batches: Sequence[int] = data["batch_sizes"]
    times = [each[f"{kind}_ms"] for each in sizes for kind in _UNITS]
    if not all(type(size) is int for size in batches):
        raise InvalidArgument(f"{what} has a batch size that is no whole number")
    accuracies = tuple(tuple(each["accuracy"]) for each in sizes)
    merged = _merged(data["merged"], what)
    every_ap = [ap for accuracy in accuracies for ap in accuracy] + [ap for *_, ap in merged]
    if (
        not all(map(math.isfinite, (*times, fused, jitter)))
        or min(times, default=0) <= 0
        or fused <= 0
        or jitter < 0
        or not 0 <= fixed <= 1
        or not all(0 <= ap <= 1 for ap in every_ap)
        or min(batches, default=0) < 1
    ):
        raise InvalidArgument(f"{what} has a number out of range")
    with invalid_arguments():
        ladder = Ladder(tuple(each["size"] for each in sizes), accuracies)
        pairs: dict[PointId, dict[PointId, float]] = {}
        for first, then, ap in merged:
            pairs.setdefault(ladder.find(first), {})[ladder.find(then)] = ap
        ladder = Ladder(ladder.sizes, accuracies, pairs)
    table = {}
    for model, each in enumerate(sizes):
        for segment in every_segment(len(accuracies[model])):
            one_s = sum(each[f"{part.kind}_ms"] / 1e3 for part in segment.parts)
            one_s *= fused if len(segment.parts) > 1 else 1.0
            for size in batches:
                p50_s = one_s * (fixed + (1 - fixed) * size)
                table[segment.of(model), int(size)] = one_sided_quantiles(p50_s, jitter)
    latency = LatencyProfile(data["name"], "made up", "", 1, table)
    return ModelProfile(data["name"], data["description"], ladder, latency)


def _merged(entries: Sequence[Mapping[str, Any]], what: str) -> list[tuple[str, str, float]]:
    """Return the pairs of operating points that are merged, by name, with the AP of the answer."""
    for number, each in enumerate(entries, start=1):
        _check_keys(each, _MERGED, f"merged pair {number} of {what}")
    return [(each["first"], each["then"], each["ap"]) for each in entries]
