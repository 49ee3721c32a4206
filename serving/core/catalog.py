"""The catalogue: every fact about a model that the server needs, as the builder measured it.

A model's entry in a repository is one set of weights at one or several input sizes, each with its
exits; an *operating point* is an exit of one size. ``model_repo/<model>_anytime/1/catalog.json`` is
the only form of it on disk. Nothing about a model is a setting of the server.
"""

from __future__ import annotations

import hashlib
import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import Any, TypeVar

from serving.core.latency import LatencyProfile
from serving.core.letterbox import PLACEMENTS, ModelInput

FORMAT = 2
"""Version of the catalogue's form on disk; others are refused."""

MOST_PIXELS = 2**16
"""Most pixels of a side of an input, and most boxes of an image, that a catalogue may ask for: what
is beyond is a mistake, or an attempt on the memory."""

ABOUT_WIDTH = 100
"""Most characters of a list or a licence in what ``ModelEntry.about`` says."""

T = TypeVar("T")


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
    """The data set, runtime and date that a model's accuracies were measured with."""

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
        _check_keys(data, FIGURES, "figures")
        figures = cls(
            exits=tuple(Exit(**entry) for entry in data["exits"]),
            evaluation=Evaluation(**data["evaluation"]) if data["evaluation"] else None,
            profiles={k: LatencyProfile.from_json(v) for k, v in data["profiles"].items()},
        )
        for entry in figures.exits:
            for name, share in (("ap", entry.ap), ("ap50", entry.ap50), *entry.ap_by_class.items()):
                _check_share(share, f"the accuracy {name!r} of exit {entry.depth}")
        for runtime, profile in figures.profiles.items():
            for (segment, batch), times in profile.table.items():
                if not all(_is_number(each, 0.0) for each in times.spread()):
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
ENTRY = ("format", *SHARED, "merging", "sizes", "merged")


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
        _check_keys(of_size, OF_SIZE, "entry of a size")
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
            input_height=int(of_size["input_height"]),
            input_width=int(of_size["input_width"]),
            resize=shared["resize"],
            max_detections=int(shared["max_detections"]),
            score_threshold=float(shared["score_threshold"]),
            exits=chosen.exits,
            evaluation=chosen.evaluation,
            segments={k: SegmentFile(**v) for k, v in of_size["segments"].items()},
            profiles=chosen.profiles,
            command=shared["command"],
            weights=_optional(SegmentFile, shared["weights"]),
            precisions=asked_for,
            origin=shared.get("origin", ""),
            max_batch=shared.get("max_batch"),
        )
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
        _check_texts(self, texts)
        if not is_plain_name(self.name):
            raise ValueError(f"the model's name, {self.name!r}, cannot be that of a folder")
        if not self.classes or not all(isinstance(n, str) and n.strip() for n in self.classes):
            raise ValueError("the classes are a list of names, at least one")
        twice = {name for name in self.classes if self.classes.count(name) > 1}
        if twice:
            raise ValueError(f"the class {min(twice)!r} is there twice")
        for name in ("input_width", "input_height", "max_detections"):
            if not 1 <= getattr(self, name) <= MOST_PIXELS:
                raise ValueError(f"{name!r} is from 1 to {MOST_PIXELS}, not {getattr(self, name)}")
        if self.max_batch is not None and not _is_number(self.max_batch, 1.0):
            raise ValueError(f"'max_batch' is a number of images, not {self.max_batch!r}")
        _check_share(self.score_threshold, "'score_threshold'")
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


# -- the sizes of an entry ------------------------------------------------------------------------


@dataclass(frozen=True)
class Merging:
    """How an answer of a larger input size takes in one of a smaller size; see ``core.merging``."""

    border_side: float
    """Side in pixels of the larger input about which both answers are heard: below it the larger
    one alone, above it the smaller one."""
    iou_threshold: float
    """Overlap above which of two boxes of one class the better one is kept, in 0..1."""


@dataclass(frozen=True)
class SizedExit:
    """An operating point of an entry: an exit of the size called ``size``."""

    size: str
    depth: int


@dataclass(frozen=True)
class MergedAccuracy:
    """Accuracy of the answer of ``then`` after that of ``first``, of a smaller size, is merged in.

    It is on the data set of the sizes' evaluations.
    """

    first: SizedExit
    then: SizedExit
    ap: float
    ap50: float
    precision: str | None = None
    """Precision that was asked for; None: what the runtime chose."""


@dataclass(frozen=True)
class ModelEntry:
    """A model of a repository: one set of weights at one or several input sizes.

    Raises ValueError for sizes that are not those of one model.
    """

    catalogs: tuple[Catalog, ...]
    """Catalogues of the sizes, smallest first, at least one."""
    default: bool = False
    """Whether this is the model that a server without a name of one means."""
    merging: Merging | None = None
    """How answers of two sizes become one; None: the later one stands alone."""
    merged: tuple[MergedAccuracy, ...] = ()
    """Accuracies of merged answers, as far as measured."""

    def __post_init__(self) -> None:
        if not self.catalogs:
            raise ValueError("the catalogue has no size")
        several = len(self.catalogs) > 1
        marked = tuple(replace(catalog, one_of_several=several) for catalog in self.catalogs)
        object.__setattr__(self, "catalogs", marked)
        first, *others = self.catalogs
        for other in others:
            for fact in (*SHARED, *SHARED_IF_ANY, "precision"):
                if getattr(other, fact) != getattr(first, fact):
                    raise ValueError(f"the sizes of {first.name} differ in {fact!r}")
        if first.resize not in PLACEMENTS:
            raise ValueError(f"'resize' is one of {', '.join(PLACEMENTS)}, not {first.resize!r}")
        areas = [catalog.input_width * catalog.input_height for catalog in self.catalogs]
        if areas != sorted(areas) or len(set(self.sizes)) < len(self.sizes):
            raise ValueError(
                f"the sizes of {first.name} are to be given once each, smallest first: they are "
                f"{', '.join(self.sizes)}"
            )
        if self.merging is not None:
            _check_share(self.merging.iou_threshold, "'iou_threshold'")
            if not _is_number(self.merging.border_side, 0.0):
                raise ValueError(
                    f"'border_side' is no number of pixels: {self.merging.border_side}"
                )
        for each in self.merged:
            self._check_merged(each)

    def _check_merged(self, merged: MergedAccuracy) -> None:
        for name in ("ap", "ap50"):
            _check_share(getattr(merged, name), f"the accuracy {name!r} of a merged answer")
        if self.merging is None:
            raise ValueError("the catalogue has accuracies of merged answers, but no 'merging'")
        for point in (merged.first, merged.then):
            if not 1 <= point.depth <= self.size(point.size).num_exits:
                raise ValueError(f"there is no exit {point.depth} of size {point.size}")
        if self.sizes.index(merged.first.size) >= self.sizes.index(merged.then.size):
            raise ValueError(
                f"an answer of {merged.then.size} takes in one of a smaller size, not of "
                f"{merged.first.size}"
            )

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.catalogs[0].name

    @cached_property
    def sizes(self) -> tuple[str, ...]:
        """Names of the sizes, such as ``300x300``, smallest first."""
        return tuple(catalog.size for catalog in self.catalogs)

    def about(self) -> list[str]:
        """Return lines of text about the model that are no figures."""
        first = self.catalogs[0]
        several = f"{len(first.classes)} classes: {', '.join(first.classes)}"
        return [
            f"{self.name}: {first.description}",
            f"  sizes: {', '.join(self.sizes)}",
            f"  {textwrap.shorten(several, ABOUT_WIDTH, placeholder=' ...')}",
            f"  licence: {textwrap.shorten(first.license, ABOUT_WIDTH, placeholder=' ...')}",
            f"  origin: {first.origin or 'trained here'}",
        ]

    def size(self, name: str | None) -> Catalog:
        """Return the catalogue of the size called ``name``; None: of the only one.

        Raises ValueError if there is none, or there are several.
        """
        if name is None and len(self.catalogs) > 1:
            raise ValueError(
                f"{self.name} has several input sizes, of which one is to be named: "
                f"{', '.join(self.sizes)}"
            )
        if name is None:
            return self.catalogs[0]
        if name not in self.sizes:
            raise ValueError(f"{self.name} has no size {name!r}: it has {', '.join(self.sizes)}")
        return self.catalogs[self.sizes.index(name)]

    @property
    def digest(self) -> str:
        """Digest of the weights of all sizes, as hexadecimal digits; of one size, that size's."""
        if len(self.catalogs) == 1:
            return self.catalogs[0].digest
        lines = (f"{catalog.size} {catalog.digest}\n" for catalog in self.catalogs)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def at(self, precision: str | None) -> ModelEntry:
        """Return the entry with the figures of ``precision`` in place of its own.

        See ``Catalog.at``.
        """
        if precision is None:
            return self
        return replace(self, catalogs=tuple(catalog.at(precision) for catalog in self.catalogs))

    def merged_in(self, precision: str | None) -> tuple[MergedAccuracy, ...]:
        """Return the accuracies of merged answers that were measured in ``precision``."""
        return tuple(each for each in self.merged if each.precision == precision)

    def with_figures(self, measured: Catalog) -> ModelEntry:
        """Return the entry with the figures of ``measured``, of one of its sizes; see
        ``Catalog.with_figures``."""
        catalogs = tuple(
            catalog.with_figures(measured) if catalog.size == measured.size else catalog
            for catalog in self.catalogs
        )
        return replace(self, catalogs=catalogs)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelEntry:
        """Parse what ``to_json`` writes. Raises ValueError naming what is wrong."""
        if not isinstance(data, Mapping):
            raise ValueError("the catalogue is not a JSON object")
        if data.get("format") != FORMAT:
            raise ValueError(f"catalogue format {data.get('format')!r}, this server reads {FORMAT}")
        try:
            _check_keys(data, ENTRY, "catalogue", optional=("default", *SHARED_IF_ANY))
            shared = {name: data[name] for name in (*SHARED, *SHARED_IF_ANY) if name in data}
            return cls(
                catalogs=tuple(Catalog.from_json(shared, size) for size in data["sizes"]),
                default=_boolean(data.get("default", False), "default"),
                merging=_optional(Merging, data["merging"]),
                merged=tuple(
                    MergedAccuracy(
                        **{**each, **{k: SizedExit(**each[k]) for k in ("first", "then")}}
                    )
                    for each in data["merged"]
                ),
            )
        except KeyError as error:
            raise ValueError(f"the catalogue lacks {error.args[0]!r}") from error
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"the catalogue has a malformed entry: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return the entry in a JSON-serialisable form.

        It must not be one ``at`` a precision.
        """
        first = self.catalogs[0]
        shared = {name: getattr(first, name) for name in SHARED}
        return {
            "format": FORMAT,
            **shared,
            "classes": list(first.classes),
            "weights": asdict(first.weights) if first.weights else None,
            **{name: getattr(first, name) for name in SHARED_IF_ANY if getattr(first, name)},
            **({"default": True} if self.default else {}),
            "merging": asdict(self.merging) if self.merging else None,
            "sizes": [catalog.facts_of_size() for catalog in self.catalogs],
            "merged": [asdict(each) for each in self.merged],
        }


def _check_keys(
    data: Mapping[str, Any], keys: Sequence[str], what: str, optional: Collection[str] = ()
) -> None:
    """Raise KeyError with the first of ``keys`` that is missing, ValueError for any other key."""
    for key in keys:
        if key not in data:
            raise KeyError(key)
    for key in data:
        if key not in keys and key not in optional:
            raise ValueError(f"the {what} has {key!r}, which is nothing that it can have")


def _optional(create: Callable[..., T], data: Mapping[str, Any] | None) -> T | None:
    return None if data is None else create(**data)


def is_plain_name(name: str) -> bool:
    """Return whether ``name`` is that of something in a folder, and leads nowhere else."""
    return (
        bool(name) and name not in (".", "..") and name.isprintable() and not set(name) & set("/\\")
    )


def _is_number(value: object, least: float) -> bool:
    """Return whether ``value`` is a finite number, of at least ``least``."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return least <= float(value) < math.inf


def _check_share(value: object, what: str) -> None:
    """Raise ValueError unless ``value`` is a number from 0 to 1; NaN is none."""
    if not (_is_number(value, 0.0) and float(value) <= 1.0):  # type: ignore[arg-type]
        raise ValueError(f"{what} is a number from 0 to 1, not {value!r}")


def _check_texts(facts: object, names: Sequence[str]) -> None:
    """Raise ValueError unless these facts are texts."""
    for name in names:
        if not isinstance(getattr(facts, name), str):
            raise ValueError(f"{name!r} is a text, not {getattr(facts, name)!r}")


def _boolean(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name!r} is true or false, not {value!r}")
    return value
