"""The catalogue: every fact about a model that the server needs, as the builder measured it.

It is of one input size, with its exits; an *operating point* is an exit of one size. Several sizes
with one set of weights are a ``ModelEntry``, which is what lies on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from serving.core.fact_checks import (
    check_keys,
    check_share,
    check_texts,
    check_whole,
    is_number,
    is_plain_name,
    optional_record,
)
from serving.core.latency_profile import LatencyProfile
from serving.core.letterbox import ModelInput

MOST_PIXELS = 2**16
"""Most pixels of a side of an input, and most boxes of an image, that a catalogue may ask for: what
is beyond is a mistake, or an attempt on the memory."""

AP, AGREEMENT, ORDER = MEASURES = ("AP", "agreement", "order")
"""What figures in the place of accuracies are: COCO AP on annotated images; COCO AP with the boxes
of a larger model for annotations; the place in an order that somebody stated, as a share."""
OF_MEASURE = ("measure", "reference")


@dataclass(frozen=True)
class Exit:
    """Accuracy of one exit: COCO AP (IoU .50:.95) and AP at IoU .50, in 0..1."""

    depth: int
    ap: float
    ap50: float
    ap_by_class: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """The data set, runtime and date that a model's accuracies were measured with.

    Raises ValueError for a fact that cannot be.
    """

    dataset: str
    split: str
    num_images: int
    seed: int
    runtime: str
    date: str
    measure: str = AP
    """What stands in the place of AP, where there are no annotations; one of ``MEASURES``."""
    reference: str = ""
    """Of agreement, the operating point whose boxes were taken for the objects; of a stated order,
    the models in it."""

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"'measure' is one of {', '.join(MEASURES)}, not {self.measure!r}")
        check_texts(self, ("dataset", "split", "runtime", "date", "reference"))
        check_whole(self.num_images, "'num_images'", 0)
        check_whole(self.seed, "'seed'", 0)

    @property
    def images(self) -> tuple[str, ...]:
        """What was measured, and on which images: such figures can be compared."""
        return self.dataset, self.split, str(self.num_images), self.measure, self.reference

    def to_json(self) -> dict[str, Any]:
        """Return the facts in a JSON-serialisable form, without those of other measures of AP."""
        facts = asdict(self)
        return facts if self.measure != AP else {k: facts[k] for k in facts if k not in OF_MEASURE}


@dataclass(frozen=True)
class SegmentFile:
    """One file with a unit segment or with weights, relative to the catalogue's folder."""

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
        check_keys(data, FIGURES, "figures")
        figures = cls(
            exits=tuple(Exit(**entry) for entry in data["exits"]),
            evaluation=Evaluation(**data["evaluation"]) if data["evaluation"] else None,
            profiles={k: LatencyProfile.from_json(v) for k, v in data["profiles"].items()},
        )
        for entry in figures.exits:
            check_whole(entry.depth, "the depth of an exit", 1)
            for name, share in (("ap", entry.ap), ("ap50", entry.ap50), *entry.ap_by_class.items()):
                check_share(share, f"the accuracy {name!r} of exit {entry.depth}")
        for runtime, profile in figures.profiles.items():
            for (segment, batch), times in profile.table.items():
                if not all(is_number(each, 0.0) for each in times.spread()):
                    raise ValueError(
                        f"the times of {segment.name} at batch {batch} on {runtime} are no seconds"
                    )
        return figures

    def to_json(self) -> dict[str, Any]:
        """Return the figures in a JSON-serialisable form."""
        return {
            "exits": [asdict(entry) for entry in self.exits],
            "evaluation": self.evaluation.to_json() if self.evaluation else None,
            "profiles": {name: p.to_json() for name, p in sorted(self.profiles.items())},
        }


def sized_file_name(name: str, size: str) -> str:
    """Return the name of a file of one size of several: ``stem.onnx`` is ``stem.300x300.onnx``."""
    stem, _, extension = name.rpartition(".")
    return f"{stem}.{size}.{extension}"


FIGURES = ("exits", "evaluation", "profiles")
SHARED = (
    "name",
    "version",
    "description",
    "license",
    "flavour",
    "command",
    "classes",
    "max_detections",
    "score_threshold",
    "resize",
    "weights",
)
"""Facts of a catalogue that all sizes of an entry have in common."""
SHARED_IF_ANY = ("origin", "max_batch")
"""More of those, which are on disk only where they are anything but the usual."""
OF_SIZE = ("input_width", "input_height", "segments", *FIGURES, "precisions")
"""Facts of a catalogue that each size of an entry has for itself."""


@dataclass(frozen=True)
class Catalog:
    """The facts about one model at one input size.

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
    resize: str
    """How an image becomes the input: a key of ``letterbox.PLACEMENTS``."""
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
    weights: SegmentFile | None = None
    """ONNX external data, beside the segments, that those of all sizes share; None: they have their
    weights inside."""
    precisions: Mapping[str, Figures] = field(default_factory=dict)
    """Figures of precisions that were asked for, by name such as ``int8``."""
    precision: str | None = None
    """Precision that the catalogue's own figures are of; None: what the runtime chooses."""
    origin: str = ""
    """Where weights come from that were not trained here; empty: they were."""
    max_batch: int | None = None
    """Most images that a run takes at once; None: any number."""
    one_of_several: bool = False
    """Whether its entry has other sizes, so that the names of its files carry the size; the entry
    sets it."""

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
    def input(self) -> ModelInput:
        """What the model takes."""
        return ModelInput(self.input_width, self.input_height, self.resize)

    @property
    def size(self) -> str:
        """Name of the input size: width x height in pixels, such as ``300x300``."""
        return self.input.size

    def file_name(self, name: str) -> str:
        """Return what the file ``name``, such as ``plans.json``, is called for this size."""
        return sized_file_name(name, self.size) if self.one_of_several else name

    @property
    def num_exits(self) -> int:
        """Number of exits; depths are 1 .. ``num_exits``."""
        return len(self.exits)

    @property
    def digest(self) -> str:
        """Digest of the weights, by which compiled plans are matched with a catalogue.

        It is the SHA-256 over the names and digests of all segments, and of the weights that they
        share, as hexadecimal digits. Plans compiled from other segments do not fit this catalogue.
        """
        lines = [f"{name} {entry.sha256}\n" for name, entry in sorted(self.segments.items())]
        if self.weights is not None:
            lines.append(f"weights {self.weights.sha256}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def files(self) -> tuple[SegmentFile, ...]:
        """Every file with unit segments or weights of this size."""
        return (*self.segments.values(), *(() if self.weights is None else (self.weights,)))

    def segment_file(self, name: str) -> str:
        """Return the name of the file with the unit segment called ``name``.

        Raises ValueError if there is none.
        """
        if name not in self.segments:
            raise ValueError(f"the catalogue of {self.name} has no segment {name!r}")
        return self.segments[name].file

    def expected_ap(self, depth: int) -> float:
        """Return the COCO AP of exit ``depth`` on the data set of ``evaluation``."""
        return self.exits[depth - 1].ap

    @classmethod
    def from_json(cls, shared: Mapping[str, Any], of_size: Mapping[str, Any]) -> Catalog:
        """Parse the facts of one size, ``of_size``, and those that it shares with the others.

        Raises KeyError, TypeError or ValueError on anything else than ``ModelEntry.to_json``
        writes.
        """
        check_keys(of_size, OF_SIZE, "entry of a size")
        if isinstance(shared["classes"], str):
            raise ValueError("the classes are a list of names, not one text")
        chosen = Figures.from_json({name: of_size[name] for name in FIGURES})
        asked_for = {k: Figures.from_json(v) for k, v in of_size["precisions"].items()}
        catalog = cls(
            name=shared["name"],
            version=shared["version"],
            description=shared["description"],
            license=shared["license"],
            flavour=shared["flavour"],
            classes=tuple(shared["classes"]),
            input_height=of_size["input_height"],
            input_width=of_size["input_width"],
            resize=shared["resize"],
            max_detections=shared["max_detections"],
            score_threshold=shared["score_threshold"],
            exits=chosen.exits,
            evaluation=chosen.evaluation,
            segments={k: SegmentFile(**v) for k, v in of_size["segments"].items()},
            profiles=chosen.profiles,
            command=shared["command"],
            weights=optional_record(SegmentFile, shared["weights"]),
            precisions=asked_for,
            origin=shared.get("origin", ""),
            max_batch=shared.get("max_batch"),
        )
        if not catalog.exits:
            raise ValueError("the catalogue has no exit")
        depths = list(range(1, catalog.num_exits + 1))
        for figures in (chosen, *asked_for.values()):
            if [entry.depth for entry in figures.exits] != depths:
                raise ValueError("the catalogue's exits are not numbered 1, 2, ...")
            for entry in figures.exits:
                for name in entry.ap_by_class:
                    if name not in catalog.classes:
                        raise ValueError(
                            f"exit {entry.depth} has an accuracy of {name!r}, which is none of the "
                            f"{len(catalog.classes)} classes"
                        )
        catalog._check()
        return catalog

    def _check(self) -> None:
        """Raise ValueError for facts that no model has."""
        texts = ("name", "version", "description", "license", "flavour", "command", "origin")
        check_texts(self, texts)
        if not is_plain_name(self.name):
            raise ValueError(f"the model's name, {self.name!r}, cannot be that of a folder")
        if not self.classes or not all(isinstance(n, str) and n.strip() for n in self.classes):
            raise ValueError("the classes are a list of names, at least one")
        twice = {name for name in self.classes if self.classes.count(name) > 1}
        if twice:
            raise ValueError(f"the class {min(twice)!r} is there twice")
        for name in ("input_width", "input_height", "max_detections"):
            check_whole(getattr(self, name), repr(name), 1, MOST_PIXELS)
        if self.max_batch is not None:
            check_whole(self.max_batch, "'max_batch'", 1)
        check_share(self.score_threshold, "'score_threshold'")
        for entry in self.files:
            if not (isinstance(entry.file, str) and is_plain_name(entry.file)):
                raise ValueError(
                    f"{entry.file!r} is not a file beside the catalogue, by its name alone"
                )
            if not isinstance(entry.sha256, str):
                raise ValueError(f"the digest of {entry.file} is not a text")

    def facts_of_size(self) -> dict[str, Any]:
        """Return the facts of this size in a JSON-serialisable form.

        It must not be a catalogue ``at`` a precision.
        """
        assert self.precision is None, "figures of one precision only"
        own = Figures(self.exits, self.evaluation, self.profiles)
        return {
            "input_width": self.input_width,
            "input_height": self.input_height,
            "segments": {name: asdict(entry) for name, entry in sorted(self.segments.items())},
            **own.to_json(),
            "precisions": {name: each.to_json() for name, each in sorted(self.precisions.items())},
        }
