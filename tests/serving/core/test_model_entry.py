"""The entry of a model: its sizes, and its form on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from serving.core.catalog import Catalog, SegmentFile
from serving.core.family import Family
from serving.core.model_entry import MergedAccuracy, Merging, ModelEntry, SizedExit
from tests.serving.core.test_catalog import measured
from tests.serving.fakes import CATALOG
from tests.serving.world import exact_profile

SIZES = (replace(CATALOG, input_width=64, input_height=48), CATALOG)
DEEP = SizedExit("128x96", 9)


@pytest.mark.parametrize(
    "entry",
    [
        ModelEntry((CATALOG,)),
        ModelEntry((measured(),), default=True),
        ModelEntry(
            tuple(replace(each, weights=SegmentFile("weights.bin", "ab")) for each in SIZES),
            merging=Merging(128.0, 0.6),
            merged=(MergedAccuracy(SizedExit("64x48", 1), SizedExit("128x96", 3), 0.7, 0.8),),
        ),
    ],
    ids=["one size", "precisions", "two sizes"],
)
def test_json_and_back(entry: ModelEntry) -> None:
    data = json.loads(json.dumps(entry.to_json()))
    assert ModelEntry.from_json(data) == entry
    assert list(data) == list(entry.to_json())


def test_one_precision_is_not_written_for_the_whole() -> None:
    with pytest.raises(AssertionError, match="one precision only"):
        ModelEntry((measured().at("int8"),)).to_json()


def test_exits_of_every_precision_are_numbered() -> None:
    data = ModelEntry((measured(),)).to_json()
    int8 = data["sizes"][0]["precisions"]["int8"]
    del int8["exits"][0]
    with pytest.raises(ValueError, match="not numbered"):
        ModelEntry.from_json(data)
    del int8["profiles"]
    with pytest.raises(ValueError, match="lacks 'profiles'"):
        ModelEntry.from_json(data)


# -- several sizes --------------------------------------------------------------------------------


def test_a_size_is_asked_for_by_its_name() -> None:
    entry = ModelEntry(SIZES)
    assert (entry.name, entry.sizes) == ("cells", ("64x48", "128x96"))
    assert entry.size("128x96").input_width == 128
    with pytest.raises(ValueError, match="has no size '1x1': it has 64x48, 128x96"):
        entry.size("1x1")
    with pytest.raises(ValueError, match="one is to be named: 64x48, 128x96"):
        entry.size(None)
    assert ModelEntry((CATALOG,)).size(None) == CATALOG


def test_files_of_several_sizes_carry_the_size() -> None:
    small, large = ModelEntry(SIZES).catalogs
    assert [each.file_name("stem.onnx") for each in (small, large)] == [
        "stem.64x48.onnx",
        "stem.128x96.onnx",
    ]
    assert ModelEntry((small,)).catalogs[0].file_name("plans.json") == "plans.json"


def test_the_digest_covers_all_sizes_and_shared_weights() -> None:
    small, large = SIZES
    assert ModelEntry((small,)).digest == small.digest
    both = ModelEntry(SIZES)
    assert len({both.digest, small.digest}) == 2
    other = replace(large, segments={"stem": SegmentFile("stem.onnx", "cd")})
    assert ModelEntry((small, other)).digest != both.digest
    shared = replace(small, weights=SegmentFile("weights.bin", "ab"))
    assert shared.digest != small.digest
    assert shared.digest != replace(shared, weights=SegmentFile("weights.bin", "cd")).digest


def test_figures_are_those_of_one_size() -> None:
    entry = ModelEntry(SIZES, merging=Merging(128.0, 0.6), merged=(MERGED,))
    measured_again = replace(entry.catalogs[1].at("int8"), evaluation=None)
    both = entry.with_figures(measured_again)
    assert both.catalogs[0] == entry.catalogs[0]
    assert set(both.catalogs[1].precisions) == {"int8"}
    assert both.at("int8").catalogs[1].precision == "int8"
    assert both.at("int8").merged_in(None) == (MERGED,)
    in_int8 = replace(MERGED, ap=0.6, precision="int8")
    known = replace(both, merged=(MERGED, in_int8))
    assert ModelEntry.from_json(json.loads(json.dumps(known.to_json()))) == known
    assert known.merged_in("int8") == (in_int8,)
    aps = [next(iter(thens.values())) for entry in (known, known.at("int8"))
           for thens in Family((entry,)).ladder.merged.values()]  # fmt: skip
    assert aps == [MERGED.ap, 0.6], "each is of what is served"
    assert not Family((both.at("int8"),)).ladder.merged
    assert both.at(None) is both


MERGED = MergedAccuracy(SizedExit("64x48", 1), SizedExit("128x96", 2), 0.7, 0.8)


@pytest.mark.parametrize(
    ("sizes", "facts", "message"),
    [
        ((), {}, "has no size"),
        (SIZES[::-1], {}, "smallest first: they are 128x96, 64x48"),
        ((CATALOG, CATALOG), {}, "once each"),
        ((SIZES[0], replace(CATALOG, resize="stretch")), {}, "cells differ in 'resize'"),
        ((SIZES[0], replace(CATALOG, classes=("circle",))), {}, "differ in 'classes'"),
        (
            (replace(CATALOG, resize="crop"),),
            {},
            "one of letterbox, letterbox-centre, stretch, not 'crop'",
        ),
        (SIZES, {"merged": (MERGED,)}, "but no 'merging'"),
        (
            SIZES,
            {"merging": Merging(128.0, 0.6), "merged": (replace(MERGED, first=MERGED.then),)},
            "takes in one of a smaller size, not of 128x96",
        ),
        (
            SIZES,
            {"merging": Merging(128.0, 0.6), "merged": (replace(MERGED, then=DEEP),)},
            "no exit 9 of size 128x96",
        ),
    ],
)
def test_sizes_that_are_not_those_of_one_model(
    sizes: tuple[Catalog, ...], facts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ModelEntry(sizes, **facts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "format 1, this server reads 2"),
        ({"extra": 1}, "the catalogue has 'extra'"),
        ({"default": 1}, "'default' is true or false, not 1"),
        ({"origin": 1}, "'origin' is a text, not 1"),
        ({"max_batch": 0}, "'max_batch' is a whole number of at least 1, not 0"),
        ({"max_batch": "all"}, "'max_batch' is a whole number of at least 1, not 'all'"),
        ({"merging": {"border_side": 1.0}}, "malformed"),
        ({"weights": {"file": "weights.bin"}}, "malformed"),
        ({"sizes": []}, "has no size"),
        ({"sizes": [{}]}, "lacks 'input_width'"),
        ({"sizes": None}, "malformed"),
        ({"merged": [{"then": {"size": "64x48", "depth": 1}}]}, "lacks 'first'"),
    ],
)
def test_what_is_not_a_catalogue_is_said(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelEntry.from_json({**ModelEntry((CATALOG,)).to_json(), **change})


def test_a_catalogue_that_is_no_object() -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        ModelEntry.from_json([])  # type: ignore[arg-type]


# -- facts that no model has ----------------------------------------------------------------------

NAN = float("nan")


def spoilt(*path: str | int, value: Any) -> dict[str, Any]:
    """The catalogue of two sizes as JSON, with ``value`` at ``path``."""
    sizes = tuple(
        replace(each, segments={"stem": SegmentFile("stem.onnx", "ab")}, profiles={"f": PROFILE})
        for each in SIZES
    )
    weighted = tuple(replace(each, weights=SegmentFile("weights.bin", "cd")) for each in sizes)
    entry = ModelEntry(weighted, merging=Merging(128.0, 0.6), merged=(MERGED,))
    data: Any = json.loads(json.dumps(entry.to_json()))
    target = data
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return data  # type: ignore[no-any-return]


PROFILE = exact_profile()
TIMES = ("sizes", 0, "profiles", "f", "segments", "stem", "1", "p50_s")


@pytest.mark.parametrize("value", [NAN, float("inf"), -0.1, 1.1, None, "0.5", True, [0.5]])
@pytest.mark.parametrize(
    "path",
    [
        ("sizes", 0, "exits", 0, "ap"),
        ("sizes", 1, "exits", 2, "ap50"),
        ("sizes", 0, "exits", 0, "ap_by_class", "circle"),
        ("merged", 0, "ap"),
        ("merged", 0, "ap50"),
        ("merging", "iou_threshold"),
    ],
    ids=lambda path: path[-1],
)
def test_a_share_that_is_none_is_refused(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(ValueError, match=r"is a number from 0 to 1, not|malformed"):
        ModelEntry.from_json(spoilt(*path, value=value))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("classes",), [], "at least one"),
        (("classes",), ["circle", ""], "a list of names"),
        (("classes",), ["circle", "circle"], "'circle' is there twice"),
        (("classes",), ["circle", 7], "a list of names"),
        (("classes",), "circle", "not one text"),
        (("sizes", 0, "exits", 0, "ap_by_class"), {"ring": 0.5}, "'ring', which is none of the 2"),
        (("name",), "../cells", "cannot be that of a folder"),
        (("name",), 7, "'name' is a text"),
        *(
            (("max_detections",), value, "'max_detections' is a whole number from 1")
            for value in (0, 10**9, float("inf"), 1.5, True, "100", None)
        ),
        (("sizes", 0, "input_width"), -1, "'input_width' is a whole number from 1"),
        (("sizes", 0, "input_height"), "300", "'input_height' is a whole number from 1"),
        (("sizes", 0, "exits", 0, "depth"), True, "the depth of an exit is a whole number"),
        (("score_threshold",), "0.05", "'score_threshold' is a number from 0 to 1"),
        (("sizes", 0, "evaluation", "num_images"), 1.5, "'num_images' is a whole number"),
        (("sizes", 0, "evaluation", "dataset"), None, "'dataset' is a text"),
        (("sizes", 0, "profiles", "f", "threads"), "2", "'threads' is a whole number"),
        (("sizes", 0, "profiles", "f", "machine"), 7, "'machine' is a text"),
        (TIMES[:6], {"0": {}}, "'0' is no batch size"),
        (("sizes", 0, "exits"), [], "has no exit"),
        (("merged", 0, "precision"), 8, "precision of a merged answer is no text"),
        (("merged", 0, "first", "depth"), 1.0, "the depth of a merged answer is a whole number"),
        (("score_threshold",), NAN, "'score_threshold' is a number from 0 to 1"),
        (("merging", "border_side"), NAN, "'border_side' is no number"),
        (TIMES, NAN, "the times of stem at batch 1 on f are no seconds"),
        (TIMES, -1.0, "the times of stem at batch 1 on f are no seconds"),
        (TIMES, None, "the times of stem at batch 1 on f are no seconds"),
        (("sizes", 0, "segments", "stem", "sha256"), 7, "is not a text"),
    ],
)
def test_what_no_model_has_is_refused(path: tuple[Any, ...], value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ModelEntry.from_json(spoilt(*path, value=value))


@pytest.mark.parametrize(
    "file", ["../stem.onnx", "/etc/passwd", "a/b.onnx", "a\\b.onnx", "..", ".", "", "a\0b", 7, None]
)
@pytest.mark.parametrize("path", [("sizes", 0, "segments", "stem"), ("weights",)])
def test_a_file_is_one_beside_the_catalogue(path: tuple[Any, ...], file: Any) -> None:
    with pytest.raises(ValueError, match="is not a file beside the catalogue"):
        ModelEntry.from_json(spoilt(*path, "file", value=file))


def test_what_was_not_spoilt_is_read() -> None:
    assert ModelEntry.from_json(spoilt("version", value="2")).catalogs[0].version == "2"
