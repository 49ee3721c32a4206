"""Measured run times of segments: a table of quantiles, for one runtime on one machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from serving.core import segment as segments
from serving.core.fact_checks import check_texts, check_whole
from serving.core.segment import Segment

PAYING_SHARE = 0.9
"""Share of an image's time alone that it may take in a batch for that batch to pay: whoever leads
it waits for all the others, and another batch size takes memory."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Measured run times of one segment at one batch size, in seconds."""

    p50_s: float
    p90_s: float
    p99_s: float

    def spread(self) -> tuple[float, ...]:
        """Return ten values that have these quantiles: what a window holds before it has runs."""
        return (*[self.p50_s] * 6, *[self.p90_s] * 3, self.p99_s)


@dataclass(frozen=True)
class LatencyProfile:
    """The measured run times of one runtime on one machine."""

    runtime: str
    machine: str
    date: str
    threads: int
    table: Mapping[tuple[Segment, int], Quantiles]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyProfile:
        """Parse what ``to_json`` writes. Raises KeyError or ValueError on anything else."""
        for batches in data["segments"].values():
            for batch in batches:
                if not (batch.isdecimal() and int(batch) >= 1):
                    raise ValueError(f"{batch!r} is no batch size")
        table = {
            (segments.parse(name), int(batch)): Quantiles(**quantiles)
            for name, batches in data["segments"].items()
            for batch, quantiles in batches.items()
        }
        found = cls(data["runtime"], data["machine"], data["date"], data["threads"], table)
        check_texts(found, ("runtime", "machine", "date"))
        check_whole(found.threads, "'threads'", 1)
        return found

    @classmethod
    def merged(cls, profiles: Iterable[tuple[int, LatencyProfile]]) -> LatencyProfile:
        """Return one profile of several models' segments.

        ``profiles`` are pairs of a model's number and its profile. What else a profile says is
        taken from the first.
        """
        numbered = tuple(profiles)
        table = {
            (segment.of(model), batch): quantiles
            for model, profile in numbered
            for (segment, batch), quantiles in profile.table.items()
        }
        return replace(numbered[0][1], table=table)

    def paying_sizes(self, segment: Segment) -> tuple[int, ...]:
        """Return the batch sizes of ``segment`` that pay, smallest first.

        These are 1 and all at which an image takes at most ``PAYING_SHARE`` of what it takes
        alone. Raises KeyError if the segment was not measured.
        """
        alone_s = self.table[segment, 1].p50_s
        measured = {size: q.p50_s for (one, size), q in self.table.items() if one == segment}
        paying = [
            size for size, seconds in measured.items() if seconds <= PAYING_SHARE * size * alone_s
        ]
        return tuple(sorted({1, *paying}))

    def to_json(self) -> dict[str, Any]:
        """Return the profile in a JSON-serialisable form.

        Its segments are a table: segment name -> batch size -> quantiles in seconds.
        """
        by_name: dict[str, dict[str, dict[str, float]]] = {}
        for (segment, batch), q in sorted(self.table.items()):
            by_name.setdefault(segment.name, {})[str(batch)] = {
                "p50_s": q.p50_s,
                "p90_s": q.p90_s,
                "p99_s": q.p99_s,
            }
        return {
            "runtime": self.runtime,
            "machine": self.machine,
            "date": self.date,
            "threads": self.threads,
            "segments": by_name,
        }
