"""Profiles: what the shipped ones say, the rule of made-up ones, and files that are none."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.simulation.profiles import FOLDER, load_profile, one_sided_quantiles
from serving.core.segment import STEM, every_segment, fused_exit, head, stack

MADE_UP: dict[str, Any] = {
    "format": 1,
    "name": "small",
    "description": "of a test",
    "accuracy": [0.5, 0.6],
    "stem_ms": 10,
    "stack_ms": 2,
    "head_ms": 4,
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
    assert profile.quickest_s(1) == pytest.approx(0.016)
    with pytest.raises(ValueError, match="no path to exit 1 in batches of 3"):
        profile.quickest_s(1, 3)


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
    assert set(profile.segments) == set(every_segment(len(profile.accuracy)))
    assert profile.capacity_hz > 1 / profile.full_depth_s


def test_a_catalogue_is_a_profile_too() -> None:
    path = FOLDER.parents[1] / "model_repo" / "bccd_anytime" / "1" / "catalog.json"
    assert load_profile(str(path)) == load_profile("bccd")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": 2}, "format 2, not 1"),
        ({"stem_ms": None}, "lacks 'stem_ms'"),
        ({"stem_ms": 0}, "out of range"),
        ({"accuracy": []}, "out of range"),
        ({"batch_fixed": 2}, "out of range"),
        ({"stack_ms": "2"}, "malformed"),
        ({"catalog": "nowhere.json", "runtime": "openvino"}, "neither a readable file"),
    ],
)
def test_a_file_that_is_no_profile(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        load_profile(write(tmp_path / "p.json", **changes))


def test_a_name_of_nothing() -> None:
    with pytest.raises(ValueError, match="nor one of bccd, cpu-lite, gpu-like"):
        load_profile("tpu-like")


@pytest.mark.parametrize(("content", "complaint"), [("{", "not JSON"), ("[]", "not a JSON object")])
def test_a_file_that_is_not_json(content: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=complaint):
        load_profile(str(path))
