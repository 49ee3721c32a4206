"""Profiles: what the shipped ones say, the rule of made-up ones, and files that are none."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.simulation.profiles import FOLDER, load_profile, one_sided_quantiles
from serving.core.segment import STEM, every_segment, fused_exit, head, stack

MADE_UP: dict[str, Any] = {
    "format": 2,
    "name": "small",
    "description": "of a test",
    "sizes": [
        {"size": "64x48", "stem_ms": 10, "stack_ms": 2, "head_ms": 4, "accuracy": [0.5, 0.6]}
    ],
    "merged": [],
    "batch_sizes": [1, 4],
    "batch_fixed": 0.5,
    "fused": 0.9,
    "jitter": 0.1,
}


def write(path: Path, **changes: Any) -> str:
    content = {k: v for k, v in {**MADE_UP, **changes}.items() if v is not None}
    path.write_text(json.dumps(content))
    return str(path)


def test_a_made_up_profile_follows_its_rule(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path / "p.json"))
    p50_ms = {key: q.p50_s * 1e3 for key, q in profile.latency.table.items()}
    assert p50_ms[STEM, 1] == pytest.approx(10)
    assert p50_ms[stack(2), 4] == pytest.approx(2 * (0.5 + 0.5 * 4))
    assert p50_ms[head(1), 1] == pytest.approx(4)
    assert p50_ms[fused_exit(2), 1] == pytest.approx(0.9 * (10 + 2 + 2 + 4))
    assert profile.segments == tuple(sorted(every_segment(2)))
    assert profile.batch_sizes == (1, 4)
    assert profile.full_depth_s == pytest.approx(0.9 * 0.018)
    # Exit 1 takes .9 * 16 ms alone and 2.5 times that in a batch of four.
    assert profile.capacity_hz == pytest.approx(4 / (0.9 * 0.016 * 2.5))


def test_units_are_taken_where_they_are_quicker(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path / "p.json", fused=1.5))
    assert profile.quickest_s((0, 1)) == pytest.approx(0.016)
    with pytest.raises(ValueError, match="no path to 64x48/1 in batches of 3"):
        profile.quickest_s((0, 1), 3)


def test_quantiles_are_those_of_the_simulated_jitter() -> None:
    q = one_sided_quantiles(1.0, 0.03)
    assert q.p50_s == 1.0
    # (1 + .03 ln 10) / (1 + .03 ln 2), and with ln 100.
    assert q.p90_s == pytest.approx(1.06908 / 1.02079, rel=1e-4)
    assert q.p99_s == pytest.approx(1.13816 / 1.02079, rel=1e-4)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_every_shipped_profile_loads(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert set(profile.segments) == {
        segment.of(number)
        for number, accuracy in enumerate(profile.ladder.accuracies)
        for segment in every_segment(len(accuracy))
    }
    assert profile.capacity_hz > 1 / profile.full_depth_s


def test_a_catalogue_is_a_profile_too() -> None:
    path = FOLDER.parents[1] / "model_repo" / "bccd_anytime" / "1" / "catalog.json"
    assert load_profile(str(path)) == load_profile("bccd")


def size(**changes: Any) -> dict[str, Any]:
    """One input size of ``MADE_UP``, of which None takes an entry away."""
    content = {**MADE_UP["sizes"][0], **changes}
    return {key: value for key, value in content.items() if value is not None}


def merged(first: str, then: str, ap: float) -> dict[str, Any]:
    """Two input sizes, and a pair of their operating points."""
    return {
        "sizes": [size(), size(size="96x64")],
        "merged": [{"first": first, "then": then, "ap": ap}],
    }


def test_input_sizes_have_segments_of_their_own_and_pairs_that_are_merged(tmp_path: Path) -> None:
    larger = size(size="96x64", stem_ms=20, accuracy=[0.7])
    pair = {"first": "64x48/2", "then": "96x64/1", "ap": 0.75}
    profile = load_profile(write(tmp_path / "p.json", sizes=[size(), larger], merged=[pair]))
    p50_ms = {key: q.p50_s * 1e3 for key, q in profile.latency.table.items()}
    assert p50_ms[STEM, 1] == pytest.approx(10)
    assert p50_ms[STEM.of(1), 1] == pytest.approx(20)
    assert p50_ms[fused_exit(1).of(1), 1] == pytest.approx(0.9 * (20 + 2 + 4))
    assert profile.segments == tuple(
        sorted([*every_segment(2), *(segment.of(1) for segment in every_segment(1))])
    )
    ladder = profile.ladder
    assert [ladder.label(point) for point in ladder.points] == ["64x48/1", "64x48/2", "96x64/1"]
    assert ladder.merged_ap((0, 2), (1, 1)) == 0.75
    assert profile.best_point == (1, 1)
    assert profile.full_depth_s == pytest.approx(0.9 * 0.026)
    # A load of 1 is that of the quickest point, here exit 1 of the smaller size.
    assert profile.capacity_hz == profile.rate_hz((0, 1)) > profile.rate_hz((1, 1))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": 1}, "format 1, not 2"),
        ({"fused": None}, "lacks 'fused'"),
        ({"stem_ms": 2}, "has 'stem_ms', which nothing reads"),
        ({"sizes": []}, "out of range"),
        ({"sizes": [size(stem_ms=None)]}, "size 1 of .* lacks 'stem_ms'"),
        ({"sizes": [size(exits=3)]}, "size 1 of .* has 'exits', which nothing reads"),
        ({"sizes": [size(), size()]}, "two input sizes are called 64x48"),
        ({"sizes": [size(size="small")]}, "calls a size 'small', not WIDTHxHEIGHT"),
        ({"sizes": [size(stem_ms=0)]}, "out of range"),
        ({"sizes": [size(accuracy=[])]}, "needs exits"),
        ({"sizes": [size(accuracy=[40.2])]}, "out of range"),
        ({"sizes": [size(stack_ms="2")]}, "malformed"),
        ({"sizes": 3}, "malformed"),
        ({"batch_fixed": 2}, "out of range"),
        ({"batch_sizes": [0, 1]}, "out of range"),
        ({"batch_sizes": [1, 2.5]}, "batch size that is no whole number"),
        ({"batch_sizes": 4}, "malformed"),
        ({"sizes": [size(head_ms=float("nan"))]}, "out of range"),
        ({"fused": float("inf")}, "out of range"),
        ({"jitter": float("nan")}, "out of range"),
        (merged("64x48/1", "96x64/3", 0.7), "no operating point '96x64/3'"),
        (merged("64x48/1", "64x48/2", 0.7), "only exits of two different input sizes"),
        (merged("64x48/1", "96x64/2", 47.0), "out of range"),
        ({"merged": [{"first": "64x48/1"}]}, "merged pair 1 of .* lacks 'then'"),
    ],
)
def test_a_file_that_is_no_profile(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        load_profile(write(tmp_path / "p.json", **changes))


def test_a_name_of_nothing() -> None:
    with pytest.raises(ValueError, match="nor one of bccd, cpu-lite, few, flat, gpu-like"):
        load_profile("tpu-like")


def test_a_catalogue_that_is_not_there(tmp_path: Path) -> None:
    path, head = tmp_path / "p.json", {"format": 2, "name": "gone", "description": "of a test"}
    path.write_text(json.dumps({**head, "catalog": "nowhere.json", "runtime": "openvino"}))
    with pytest.raises(ValueError, match="neither a readable file"):
        load_profile(str(path))
    path.write_text(json.dumps({**head, "catalog": "nowhere.json"}))
    with pytest.raises(ValueError, match="lacks 'runtime'"):
        load_profile(str(path))
    path.write_text(json.dumps({**head, "catalog": 3, "runtime": "openvino"}))
    with pytest.raises(ValueError, match="has a 'catalog' that is no text"):
        load_profile(str(path))


@pytest.mark.parametrize(("content", "complaint"), [("{", "not JSON"), ("[]", "not a JSON object")])
def test_a_file_that_is_not_json(content: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=complaint):
        load_profile(str(path))
