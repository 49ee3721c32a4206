"""How a request wants its image cut into parts: into tiles of a grid, or regions that it names.

    ?tiles=3x3&overlap=0.2&whole=true          rows x columns, and the whole image beside them
    ?regions=0,0,640,480;640,0,1280,480        x1,y1,x2,y2 in pixels of the upright original image

Either way each part has an outcome of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from serving.api.numbers import boolean, decimal, integer, shown
from serving.core.errors import InvalidParameter, PayloadTooLarge, ServingError
from serving.core.tiling import Region, grid

TILES, OVERLAP, WHOLE, REGIONS = "tiles", "overlap", "whole", "regions"
NAMES = (TILES, OVERLAP, WHOLE, REGIONS)

DEFAULT_OVERLAP = 0.2
MAX_OVERLAP = 0.5
"""Most of a tile's side that its neighbour may share: with more, three tiles see one place."""
MIN_SIDE = 16
"""Fewest pixels of a part's sides. There is nothing to see in less."""

_GRID = re.compile(r"([1-9][0-9]?)x([1-9][0-9]?)")


@dataclass(frozen=True, slots=True)
class Tiles:
    """A grid of tiles that share ``overlap`` of their sides, and ``whole`` the image as well."""

    rows: int
    columns: int
    overlap: float = DEFAULT_OVERLAP
    whole: bool = False

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return self.rows * self.columns + self.whole

    def num_pixels(self, width: int, height: int) -> int:
        """Return about how many pixels the parts of an image of this size have together."""
        grown = [
            count / (count - (count - 1) * self.overlap) for count in (self.rows, self.columns)
        ]
        return math.ceil(width * height * (grown[0] * grown[1] + self.whole))

    def parts(self, width: int, height: int) -> list[Region | ServingError]:
        """Return the parts of an image of this size; the whole of it is the last.

        Raises InvalidParameter for an image that is too small.
        """
        tiles = grid(width, height, self.rows, self.columns, self.overlap)
        if min(min(tile.width, tile.height) for tile in tiles) < MIN_SIDE:
            raise InvalidParameter(
                f"An image of {width} x {height} pixels is too small for {self.rows} x "
                f"{self.columns} tiles: each side of a tile must have {MIN_SIDE}."
            )
        return [*tiles, Region(0, 0, width, height)] if self.whole else [*tiles]


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions that a request names; what is beyond the image is left out."""

    regions: tuple[Region, ...]

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return len(self.regions)

    def num_pixels(self, width: int, height: int) -> int:
        """Return how many pixels the parts of an image of this size have together, at most."""
        return sum(min(region.num_pixels, width * height) for region in self.regions)

    def parts(self, width: int, height: int) -> list[Region | ServingError]:
        """Return the parts of an image of this size, an error for each that has too little of it.

        Raises that of the first if all have.
        """
        parts: list[Region | ServingError] = []
        for x1, y1, x2, y2 in self.regions:
            region = Region(x1, y1, min(x2, width), min(y2, height))
            if min(region.width, region.height) >= MIN_SIDE:
                parts.append(region)
                continue
            parts.append(
                InvalidParameter(
                    f"Of the region {x1},{y1},{x2},{y2} there are fewer than {MIN_SIDE} x "
                    f"{MIN_SIDE} pixels in the image, which has {width} x {height}."
                )
            )
        if isinstance(parts[0], ServingError) and not any(isinstance(p, Region) for p in parts):
            raise parts[0]
        return parts


Cut = Tiles | Regions


def parse_cut(given: Iterable[tuple[str, str]], max_parts: int) -> Cut | None:
    """Return how an image is to be cut, by parameters of these ``NAMES``; None without any.

    Raises InvalidParameter, and PayloadTooLarge for more than ``max_parts`` parts.
    """
    values: dict[str, str] = {}
    for name, value in given:
        if name in values:
            raise InvalidParameter(f"{name} was given more than once.")
        values[name] = value
    if not values:
        return None
    if REGIONS in values:
        if len(values) > 1:
            raise InvalidParameter(f"{REGIONS} and {TILES} exclude each other.")
        cut: Cut = _regions(values[REGIONS], max_parts)
    else:
        cut = _tiles(values)
    if cut.num_parts > max_parts:
        raise PayloadTooLarge(
            f"The request asks for {cut.num_parts} parts; at most {max_parts} are served."
        )
    return cut


def _tiles(values: dict[str, str]) -> Tiles:
    if TILES not in values:
        raise InvalidParameter(f"{', '.join(values)}: of {TILES}, and there are none.")
    matched = _GRID.fullmatch(values[TILES])
    if matched is None:
        raise InvalidParameter(
            f"{TILES} must be rows x columns, such as 3x3; it is {shown(values[TILES])}."
        )
    overlap = decimal(text) if (text := values.get(OVERLAP)) is not None else DEFAULT_OVERLAP
    if overlap is None or overlap > MAX_OVERLAP:
        raise InvalidParameter(
            f"{OVERLAP} must be a share of a tile's side from 0 to {MAX_OVERLAP}; it is "
            f"{shown(values[OVERLAP])}."
        )
    whole = boolean(values.get(WHOLE, "false"))
    if whole is None:
        raise InvalidParameter(f"{WHOLE} must be true or false; it is {shown(values[WHOLE])}.")
    return Tiles(int(matched[1]), int(matched[2]), overlap, whole)


def _regions(text: str, max_parts: int) -> Regions:
    stated = text.split(";", max_parts + 1)
    if len(stated) > max_parts:
        raise PayloadTooLarge(
            f"The request asks for more than the {max_parts} parts that are served."
        )
    regions = []
    for each in stated:
        numbers = [integer(number.strip()) for number in each.split(",", 4)]
        match numbers:
            case [int(x1), int(y1), int(x2), int(y2)] if x1 < x2 and y1 < y2:
                regions.append(Region(x1, y1, x2, y2))
            case _:
                raise InvalidParameter(
                    f"Each of {REGIONS} must be x1,y1,x2,y2, whole numbers of pixels with x1 < x2 "
                    f"and y1 < y2, and a semicolon between two; one is {shown(each)}."
                )
    return Regions(tuple(regions))


@dataclass(frozen=True, slots=True)
class _Parameter:
    text: str
    schema: dict[str, Any]


_DESCRIBED: dict[str, Callable[[int], _Parameter]] = {
    TILES: lambda most: _Parameter(
        "Rows x columns of a grid that the image is cut into, for objects that are small in it. "
        f"Each tile is a part with an outcome of its own, at most {most} in all; boxes are merged.",
        {"type": "string", "pattern": f"^{_GRID.pattern}$", "example": "3x3"},
    ),
    OVERLAP: lambda _: _Parameter(
        "Share of a tile's side that it has in common with its neighbour.",
        {"type": "number", "minimum": 0, "maximum": MAX_OVERLAP, "default": DEFAULT_OVERLAP},
    ),
    WHOLE: lambda _: _Parameter(
        "Whether the whole image is looked at beside its tiles, for objects that are larger.",
        {"type": "boolean", "default": False},
    ),
    REGIONS: lambda most: _Parameter(
        "Regions of the image to look at, each a part with an outcome of its own: x1,y1,x2,y2 in "
        f"pixels of the upright original, with semicolons between them, at most {most}.",
        {"type": "string", "example": "0,0,640,480;640,0,1280,480"},
    ),
}


def describe_cut(max_parts: int) -> list[dict[str, Any]]:
    """Return the parameters as OpenAPI objects."""
    described = {name: describe(max_parts) for name, describe in _DESCRIBED.items()}
    return [
        {"name": name, "in": "query", "description": each.text, "schema": each.schema}
        for name, each in described.items()
    ]
