"""Model profiles: the facts that a simulation knows of a model.

They are its exits' accuracies and how long its segments take.

A profile is a small JSON file, in ``loadtest/profiles`` or anywhere. It either points to the
catalogue of a measured model or describes a made-up one by a few numbers:

    stem, stack, head at a batch of b  =  its time * (batch_fixed + (1 - batch_fixed) * b)
    exit_k                             =  fused * the sum of its parts
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.core.catalog import Catalog
from serving.core.command_errors import InvalidArgument, invalid_arguments
from serving.core.latency import LatencyProfile, Quantiles
from serving.core.segment import Segment, every_segment, fused_exit, unit_path

FORMAT = 1
FOLDER = Path(__file__).parents[1] / "profiles"
_EXPONENTIAL = {q: -math.log1p(-q) for q in (0.5, 0.9, 0.99)}
"""Quantile -> its value, of the exponential distribution with mean 1."""


@dataclass(frozen=True)
class ModelProfile:
    """The profile of one model on one runtime and machine."""

    name: str
    description: str
    accuracy: tuple[float, ...]
    """AP of exits 1 .. N."""
    latency: LatencyProfile

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Return all segments that were profiled, in order."""
        return tuple(sorted({segment for segment, _ in self.latency.table}))

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Return all batch sizes that were profiled, smallest first."""
        return tuple(sorted({size for _, size in self.latency.table}))

    def quickest_s(self, depth: int, batch: int = 1) -> float:
        """Return the typical seconds from the image to the boxes of exit ``depth``.

        They are those of the quickest path that there is. Raises ValueError if there is no path at
        this batch size.
        """
        paths = (unit_path(depth), (fused_exit(depth),))
        table = self.latency.table
        times = [
            sum(table[segment, batch].p50_s for segment in path)
            for path in paths
            if all((segment, batch) in table for segment in path)
        ]
        if not times:
            raise InvalidArgument(
                f"profile {self.name} has no path to exit {depth} in batches of {batch}"
            )
        return min(times)

    @property
    def full_depth_s(self) -> float:
        """Return the seconds that an idle server typically takes for one request at full depth."""
        return self.quickest_s(len(self.accuracy))

    @property
    def capacity_hz(self) -> float:
        """Return the requests per second that one executor answers at exit 1: a load of 1.

        Batches are of the size that is best for it.
        """
        return max(size / self.quickest_s(1, size) for size in self.batch_sizes)


def load_profile(name: str) -> ModelProfile:
    """Read the profile called ``name`` in ``loadtest/profiles``, or that in the file ``name``.

    A file may be a profile, or a model's catalogue (of its first runtime). Raises ValueError for
    anything else.
    """
    shipped = FOLDER / f"{name}.json"
    path = shipped if shipped.parent == FOLDER and shipped.is_file() else Path(name)
    data = _read(path, f"profile {name!r}")
    if "segments" in data:
        return _of_catalog(data, path, None)
    if data.get("format") != FORMAT:
        raise InvalidArgument(f"profile {name!r} is in format {data.get('format')!r}, not {FORMAT}")
    try:
        if "catalog" in data:
            target = path.parent / data["catalog"]
            content = _read(target, f"the catalogue of profile {name!r}")
            return _of_catalog(content, target, data["runtime"], data["name"])
        return _made_up(data)
    except KeyError as error:
        raise InvalidArgument(f"profile {name!r} lacks {error.args[0]!r}") from error
    except TypeError as error:
        raise InvalidArgument(f"profile {name!r} has a malformed entry: {error}") from error


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
    except ValueError as error:
        raise InvalidArgument(f"{what} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidArgument(f"{what} is not a JSON object")
    return data


def _of_catalog(
    data: Mapping[str, Any], path: Path, runtime: str | None, name: str | None = None
) -> ModelProfile:
    with invalid_arguments():
        catalog = Catalog.from_json(data)
    if not catalog.profiles:
        raise InvalidArgument(f"the catalogue {path} has no latency profile")
    chosen = runtime or min(catalog.profiles)
    if chosen not in catalog.profiles:
        raise InvalidArgument(f"the catalogue {path} has no profile of {chosen!r}")
    accuracy = tuple(entry.ap for entry in catalog.exits)
    return ModelProfile(
        name or catalog.name, catalog.description, accuracy, catalog.profiles[chosen]
    )


def _made_up(data: Mapping[str, Any]) -> ModelProfile:
    accuracy: Sequence[float] = data["accuracy"]
    unit_s = {kind: data[f"{kind}_ms"] / 1e3 for kind in ("stem", "stack", "head")}
    fixed, fused, jitter = data["batch_fixed"], data["fused"], data["jitter"]
    if not accuracy or min(unit_s.values()) <= 0 or fused <= 0 or jitter < 0 or not 0 <= fixed <= 1:
        raise InvalidArgument(f"profile {data['name']!r} has a number out of range")
    table = {}
    for segment in every_segment(len(accuracy)):
        one_s = sum(unit_s[part.name.partition("_")[0]] for part in segment.parts)
        one_s *= fused if len(segment.parts) > 1 else 1.0
        for size in data["batch_sizes"]:
            p50_s = one_s * (fixed + (1 - fixed) * size)
            table[segment, int(size)] = one_sided_quantiles(p50_s, jitter)
    latency = LatencyProfile(data["name"], "made up", "", 1, table)
    return ModelProfile(data["name"], data["description"], tuple(accuracy), latency)
