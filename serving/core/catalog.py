"""The catalogue: every fact about a model that the server needs, as the builder measured it.

``model_repo/<model>_anytime/1/catalog.json`` is its only form on disk. Nothing about a model is a
setting of the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from serving.core.latency import LatencyProfile

FORMAT = 1
"""Version of the catalogue's form on disk; others are refused."""


@dataclass(frozen=True)
class Exit:
    """Accuracy of one exit: COCO AP (IoU .50:.95) and AP at IoU .50, in 0..1."""

    depth: int
    ap: float
    ap50: float
    ap_by_class: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """The data set, runtime and date that a model's accuracies were measured with."""

    dataset: str
    split: str
    num_images: int
    seed: int
    runtime: str
    date: str


@dataclass(frozen=True)
class SegmentFile:
    """One ONNX file of a unit segment, relative to the catalogue's folder."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Figures:
    """The accuracies and latencies that were measured in one precision that was asked for."""

    exits: tuple[Exit, ...]
    evaluation: Evaluation | None
    profiles: Mapping[str, LatencyProfile]
    """Latency profiles, by runtime name."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Figures:
        """Parse what ``to_json`` writes.

        Raises KeyError, TypeError or ValueError on anything else.
        """
        return cls(
            exits=tuple(Exit(**entry) for entry in data["exits"]),
            evaluation=Evaluation(**data["evaluation"]) if data["evaluation"] else None,
            profiles={k: LatencyProfile.from_json(v) for k, v in data["profiles"].items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the figures in a JSON-serialisable form."""
        return {
            "exits": [asdict(entry) for entry in self.exits],
            "evaluation": asdict(self.evaluation) if self.evaluation else None,
            "profiles": {name: p.to_json() for name, p in sorted(self.profiles.items())},
        }


@dataclass(frozen=True)
class Catalog:
    """The facts about one model.

    ``exits``, ``evaluation`` and ``profiles`` are of the precision that a runtime chooses by itself
    or, in what ``at`` returns, of ``precision``.
    """

    name: str
    version: str
    description: str
    license: str
    flavour: str
    classes: tuple[str, ...]
    input_height: int
    input_width: int
    max_detections: int
    score_threshold: float
    """Score below which no box leaves the head, in 0..1."""
    exits: tuple[Exit, ...]
    evaluation: Evaluation | None
    segments: Mapping[str, SegmentFile]
    profiles: Mapping[str, LatencyProfile]
    """Latency profiles, by runtime name such as ``openvino``."""
    command: str
    """Command line that trained and exported the model."""
    precisions: Mapping[str, Figures] = field(default_factory=dict)
    """Figures of precisions that were asked for, by name such as ``int8``."""
    precision: str | None = None
    """Precision that the catalogue's own figures are of; None: what the runtime chooses."""

    def at(self, precision: str | None) -> Catalog:
        """Return the catalogue with the figures of ``precision`` in place of its own.

        Where that was not measured, neither accuracies nor latencies are known. None: the catalogue
        as it is, with those of the runtime's choice.
        """
        if precision is None:
            return self
        unknown = Figures(tuple(Exit(e.depth, 0.0, 0.0, {}) for e in self.exits), None, {})
        known = self.precisions.get(precision, unknown)
        return replace(
            self,
            exits=known.exits,
            evaluation=known.evaluation,
            profiles=known.profiles,
            precision=precision,
        )

    def with_figures(self, measured: Catalog) -> Catalog:
        """Return this catalogue with the figures of ``measured`` in place of what it had.

        ``measured`` is what ``at`` returned of it, with other figures.
        """
        if measured.precision is None:
            return measured
        figures = Figures(measured.exits, measured.evaluation, measured.profiles)
        return replace(self, precisions={**self.precisions, measured.precision: figures})

    @property
    def num_exits(self) -> int:
        """Number of exits; depths are 1 .. ``num_exits``."""
        return len(self.exits)

    @property
    def digest(self) -> str:
        """Digest of the weights, by which compiled plans are matched with a catalogue.

        It is the SHA-256 over the names and digests of all segments, as hexadecimal digits. Plans
        compiled from other segments do not fit this catalogue.
        """
        lines = (f"{name} {entry.sha256}\n" for name, entry in sorted(self.segments.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def expected_ap(self, depth: int) -> float:
        """Return the COCO AP of exit ``depth`` on the data set of ``evaluation``."""
        return self.exits[depth - 1].ap

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Catalog:
        """Parse what ``to_json`` writes. Raises ValueError naming what is wrong."""
        if data.get("format") != FORMAT:
            raise ValueError(f"catalogue format {data.get('format')!r}, this server reads {FORMAT}")
        try:
            chosen = Figures.from_json(data)
            asked_for = {k: Figures.from_json(v) for k, v in data.get("precisions", {}).items()}
            catalog = cls(
                name=data["name"],
                version=data["version"],
                description=data["description"],
                license=data["license"],
                flavour=data["flavour"],
                classes=tuple(data["classes"]),
                input_height=int(data["input_height"]),
                input_width=int(data["input_width"]),
                max_detections=int(data["max_detections"]),
                score_threshold=float(data["score_threshold"]),
                exits=chosen.exits,
                evaluation=chosen.evaluation,
                segments={k: SegmentFile(**v) for k, v in data["segments"].items()},
                profiles=chosen.profiles,
                command=data["command"],
                precisions=asked_for,
            )
        except KeyError as error:
            raise ValueError(f"the catalogue lacks {error.args[0]!r}") from error
        except TypeError as error:
            raise ValueError(f"the catalogue has a malformed entry: {error}") from error
        depths = list(range(1, catalog.num_exits + 1))
        for figures in (chosen, *asked_for.values()):
            if [entry.depth for entry in figures.exits] != depths:
                raise ValueError("the catalogue's exits are not numbered 1, 2, ...")
        return catalog

    def to_json(self) -> dict[str, Any]:
        """Return the catalogue in a JSON-serialisable form.

        It must not be one ``at`` a precision.
        """
        assert self.precision is None, "figures of one precision only"
        own = Figures(self.exits, self.evaluation, self.profiles).to_json()
        profiles = own.pop("profiles")
        precisions = {name: each.to_json() for name, each in sorted(self.precisions.items())}
        return {
            "format": FORMAT,
            **{
                key: getattr(self, key)
                for key in (
                    "name",
                    "version",
                    "description",
                    "license",
                    "flavour",
                    "input_height",
                    "input_width",
                    "max_detections",
                    "score_threshold",
                    "command",
                )
            },
            "classes": list(self.classes),
            **own,
            "segments": {name: asdict(entry) for name, entry in sorted(self.segments.items())},
            "profiles": profiles,
            **({"precisions": precisions} if precisions else {}),
        }
