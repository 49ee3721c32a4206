"""A configuration, which is a detector and its recipe, and what overrides its fields."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from builder.config.detector import DetectorConfig
from builder.config.pyramid_graphs import GRAPHS, InvalidGraph, read_graph
from builder.config.recipe import TrainConfig


@dataclass(frozen=True, slots=True)
class Config:
    """A detector and the recipe that trains it."""

    detector: DetectorConfig
    train: TrainConfig = field(default_factory=lambda: TrainConfig(dataset="bccd"))


PARTS = ("detector", "train")
"""Parts of a configuration, of which an assignment may set a field."""


def override(config: Config, assignments: Sequence[str], neck: Path | None = None) -> Config:
    """Return ``config`` with another pyramid and with fields assigned.

    The pyramid is that in the JSON file ``neck``, under the file's name. ``assignments`` are
    ``detector.FIELD=JSON`` and ``train.FIELD=JSON``; all are made at once, so that what fits
    together is taken in any order. Raises ValueError, and OSError for ``neck``.
    """
    changes: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    if neck is not None:
        if neck.stem in GRAPHS:
            raise InvalidGraph(f"{neck}: a built-in neck has the name {neck.stem!r}, rename it")
        changes["detector"] = {"neck": neck.stem, "graph": read_graph(neck).rows}
    for assignment in assignments:
        target, _, text = assignment.partition("=")
        part, _, name = target.partition(".")
        if part not in PARTS:
            raise ValueError(f"expected detector.FIELD=JSON or train.FIELD=JSON: {assignment!r}")
        try:
            changes[part][name] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{assignment} is not FIELD=JSON: {error}") from error
    records = {part: getattr(config, part) for part in PARTS}
    changed = {
        part: type(record).from_dict({**asdict(record), **changes[part]})
        for part, record in records.items()
    }
    return Config(**changed)
