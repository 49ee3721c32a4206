"""An entry of a model repository: one set of weights at one or several input sizes.

``model_repo/<model>_anytime/1/catalog.json`` is the only form of it on disk. Nothing about a model
is a setting of the server.
"""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from serving.core.catalog import SHARED, SHARED_IF_ANY, Catalog
from serving.core.fact_checks import (
    boolean,
    check_keys,
    check_share,
    check_whole,
    is_number,
    optional_record,
)
from serving.core.letterbox import PLACEMENTS

FORMAT = 2
"""Version of the catalogue's form on disk; others are refused."""

ABOUT_WIDTH = 100
"""Most characters of a list or a licence in what ``ModelEntry.about`` says."""

ENTRY = ("format", *SHARED, "merging", "sizes", "merged")


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
            check_share(self.merging.iou_threshold, "'iou_threshold'")
            if not is_number(self.merging.border_side, 0.0):
                raise ValueError(
                    f"'border_side' is no number of pixels: {self.merging.border_side}"
                )
        for each in self.merged:
            self._check_merged(each)

    def _check_merged(self, merged: MergedAccuracy) -> None:
        for name in ("ap", "ap50"):
            check_share(getattr(merged, name), f"the accuracy {name!r} of a merged answer")
        if merged.precision is not None and not isinstance(merged.precision, str):
            raise ValueError(f"the precision of a merged answer is no text: {merged.precision!r}")
        if self.merging is None:
            raise ValueError("the catalogue has accuracies of merged answers, but no 'merging'")
        for point in (merged.first, merged.then):
            check_whole(point.depth, "the depth of a merged answer", 1)
            if point.depth > self.size(point.size).num_exits:
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
        """Return the entry with the figures of ``measured``, of one of its sizes.

        See ``Catalog.with_figures``.
        """
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
            check_keys(data, ENTRY, "catalogue", optional=("default", *SHARED_IF_ANY))
            shared = {name: data[name] for name in (*SHARED, *SHARED_IF_ANY) if name in data}
            return cls(
                catalogs=tuple(Catalog.from_json(shared, size) for size in data["sizes"]),
                default=boolean(data.get("default", False), "default"),
                merging=optional_record(Merging, data["merging"]),
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
