from __future__ import annotations

import pytest

from serving.api.cutting import Regions, Tiles, parse_cut
from serving.core.errors import InvalidParameter, PayloadTooLarge
from serving.core.tiling import Region

MOST = 9


def test_nothing_asked() -> None:
    assert parse_cut([], MOST) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tiles": "2x3"}, Tiles(2, 3, 0.2, False)),
        ({"tiles": "1x1", "overlap": "0"}, Tiles(1, 1, 0.0, False)),
        ({"tiles": "2x4", "overlap": "0.5", "whole": "True"}, Tiles(2, 4, 0.5, True)),
        ({"regions": "0,0,9,9"}, Regions((Region(0, 0, 9, 9),))),
        ({"regions": "0,0,9,9; 1,2,3,4"}, Regions((Region(0, 0, 9, 9), Region(1, 2, 3, 4)))),
    ],
)
def test_read(given: dict[str, str], expected: object) -> None:
    assert parse_cut([*given.items()], MOST) == expected


@pytest.mark.parametrize(
    "given",
    [
        {"tiles": "3"},
        {"tiles": "0x3"},
        {"tiles": "-1x3"},
        {"tiles": "2x2", "overlap": "0.6"},
        {"tiles": "2x2", "overlap": "nan"},
        {"tiles": "2x2", "whole": "perhaps"},
        {"overlap": "0.2"},
        {"whole": "true"},
        {"regions": ""},
        {"regions": "1,2,3"},
        {"regions": "1,2,3,4,5"},
        {"regions": "5,0,5,9"},
        {"regions": "-1,0,5,9"},
        {"regions": "0,0,9,9;"},
        {"regions": "0,0,9,9", "tiles": "2x2"},
    ],
)
def test_malformed(given: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter):
        parse_cut([*given.items()], MOST)


def test_given_twice() -> None:
    with pytest.raises(InvalidParameter, match="more than once"):
        parse_cut([("tiles", "1x1"), ("tiles", "2x2")], MOST)


@pytest.mark.parametrize(
    "given",
    [
        {"tiles": "2x5"},
        {"tiles": "3x3", "whole": "true"},
        {"tiles": "99x99"},
        {"regions": ";".join(["0,0,9,9"] * 10)},
        {"regions": ";" * 100_000},
    ],
)
def test_too_many(given: dict[str, str]) -> None:
    with pytest.raises(PayloadTooLarge):
        parse_cut([*given.items()], MOST)


def test_pixels_of_all_parts() -> None:
    tiles = Tiles(3, 3, 0.2, whole=True)
    exact = sum(part.num_pixels for part in tiles.parts(2000, 1500) if isinstance(part, Region))
    assert tiles.num_pixels(2000, 1500) == pytest.approx(exact, rel=0.01)
    assert Regions((Region(0, 0, 10**9, 10**9), Region(0, 0, 20, 20))).num_pixels(50, 40) == 2400


def test_parts_of_a_small_image() -> None:
    with pytest.raises(InvalidParameter, match="too small"):
        Tiles(3, 3).parts(40, 400)
    inside, beyond = Regions((Region(10, 10, 99, 99), Region(90, 0, 120, 30))).parts(100, 50)
    assert inside == Region(10, 10, 99, 50)
    assert isinstance(beyond, InvalidParameter)
    with pytest.raises(InvalidParameter, match="200,0,300,50"):
        Regions((Region(200, 0, 300, 50),)).parts(100, 50)
