"""Arrivals: counts, spacing and shape of each process; texts that name none."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from loadtest.workload import arrivals
from loadtest.workload.arrivals import parse_arrivals

SPECS = (
    "poisson",
    "constant",
    "gamma:0.5",
    "gamma:8",
    "ramp:0:1",
    "ramp:3:1",
    "onoff:1:2",
    "onoff:0.7:0.4:0.2",
    "burst:2:3:5",
    "burst:500:1:2",
    "trace:azure_conv",
)


def draw(spec: str, rate_hz: float, duration_s: float, seed: int = 0) -> NDArray[np.float64]:
    return parse_arrivals(spec).offsets_s(rate_hz, duration_s, np.random.default_rng(seed))


@given(
    st.sampled_from(SPECS), st.floats(0.01, 300), st.floats(0.01, 100), st.integers(0, 2**32 - 1)
)
def test_offsets_ascend_within_the_run(spec: str, rate: float, duration: float, seed: int) -> None:
    offsets = draw(spec, rate, duration, seed)
    assert (np.diff(offsets) >= 0).all()
    assert ((offsets >= 0) & (offsets < duration)).all()
    assert (offsets == draw(spec, rate, duration, seed)).all()


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.startswith("burst:2")])
def test_the_mean_rate_is_the_asked_one(spec: str) -> None:
    process = parse_arrivals(spec)
    counts = [
        len(process.offsets_s(40.0, 33.0, np.random.default_rng(seed))) for seed in range(200)
    ]
    assert np.mean(counts) == pytest.approx(40 * 33, rel=0.02)


@pytest.mark.parametrize(
    ("spec", "cv2"), [("constant", 0), ("gamma:0.5", 0.5), ("poisson", 1), ("gamma:4", 4)]
)
def test_gaps_vary_as_asked(spec: str, cv2: float) -> None:
    gaps = np.diff(draw(spec, 100.0, 2000.0))
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.05, abs=1e-9)


def test_a_ramp_rises_linearly() -> None:
    offsets = draw("ramp:1:3", 1000.0, 100.0)
    counts, _ = np.histogram(offsets, bins=4, range=(0, 100))
    expected = np.array([1.25, 1.75, 2.25, 2.75]) / 8 * 100_000
    np.testing.assert_allclose(counts, expected, rtol=0.03)


def test_nothing_arrives_while_off() -> None:
    offsets = draw("onoff:1:2", 100.0, 30.0)
    assert (offsets % 3 < 1 + 1e-9).all()


def test_less_arrives_while_low() -> None:
    offsets = draw("onoff:1:1:0.25", 100.0, 1000.0)
    share = np.mean(offsets % 2 < 1)
    assert share == pytest.approx(0.8, abs=0.01)


def test_a_burst_multiplies_the_rate_within_its_window() -> None:
    offsets = draw("burst:20:10:5", 100.0, 60.0)
    inside = (offsets >= 20) & (offsets < 30)
    assert inside.sum() == pytest.approx(5 * 100 * 10, rel=0.06)
    assert (~inside).sum() == pytest.approx(100 * 50, rel=0.06)


def test_what_changes_at_the_same_instants_for_every_seed() -> None:
    schedules = {spec for spec in SPECS if parse_arrivals(spec).follows_schedule}
    assert schedules == {spec for spec in SPECS if spec.startswith(("ramp", "onoff", "burst"))}
    assert parse_arrivals("burst:2:3:5").burst_s == (2.0, 5.0)
    assert parse_arrivals("onoff:1:2").burst_s is None
    assert parse_arrivals("trace:azure_conv").burst_s is None


def test_a_trace_keeps_its_proportions_and_begins_anew_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("user,offset_s\na,10\nb,11\nc,14\n")  # gaps 1, 3 and, before it repeats, 2
    trace = parse_arrivals(f"trace:{path}")
    gaps = {
        tuple(np.diff(trace.offsets_s(4, 1.5, np.random.default_rng(seed))).round(6))
        for seed in range(20)
    }
    of_a_turn = [(1, 3, 2), (3, 2, 1), (2, 1, 3)]
    assert gaps == {tuple(round(g / 8, 6) for g in (turn * 2)[:5]) for turn in of_a_turn}


def test_a_trace_is_known_by_its_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("offset_s\n0\n1\n", encoding="utf-8-sig")  # as spreadsheets write it
    second.write_text("offset_s\n0\n2\n")
    digests = {parse_arrivals(f"trace:{path}").digest for path in (first, second)}
    assert len(digests) == 2
    assert {len(digest or "") for digest in digests} == {16}
    assert parse_arrivals("poisson").digest is None


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("", "not one of poisson"),
        ("poison", "not one of poisson"),
        ("poisson:3", "takes 0 numbers, not 1"),
        ("gamma", "takes 1 numbers, not 0"),
        ("gamma:0", "CV2 must be positive"),
        ("gamma:-1", "not negative"),
        ("gamma:nan", "finite"),
        ("gamma:x", "not made of numbers"),
        ("gamma:1e9", "must be in"),
        ("ramp:0:0", "one of the two rates"),
        ("onoff:0:1", "must be positive"),
        ("onoff:1", "takes 2 to 3 numbers"),
        ("burst:1:2", "takes 3 numbers"),
        ("trace:no/such/file", "neither a readable file"),
        ("trace:", "neither a readable file"),
    ],
)
def test_a_text_that_names_no_process(spec: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_arrivals(spec)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("time\n1\n2\n", "no column offset_s"),
        ("offset_s\n1\nx\n", "no column offset_s of numbers"),
        ("offset_s\n1\n", "2 to"),
        ("offset_s\n2\n1\n", "ascending"),
        ("offset_s\n1\nnan\n", "finite"),
        ("offset_s\n1\n1\n", "same time"),
        ("\xff", "no column offset_s"),
    ],
)
def test_a_file_that_is_no_trace(content: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(content, "latin-1")
    with pytest.raises(ValueError, match=complaint):
        parse_arrivals(f"trace:{path}")


@pytest.mark.parametrize(("rate", "duration"), [(0, 1), (1, 0), (np.nan, 1), (1, np.inf), (-1, 1)])
def test_a_rate_or_duration_that_is_none(rate: float, duration: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        draw("poisson", rate, duration)


@pytest.mark.parametrize(
    ("spec", "rate", "duration"),
    [("poisson", 1e6, 1e6), ("burst:0:100:1e6", 100, 100), ("onoff:1e-7:0", 1, 10)],
)
def test_too_much_is_refused_before_it_is_drawn(spec: str, rate: float, duration: float) -> None:
    with pytest.raises(ValueError, match=r"more than|too short"):
        draw(spec, rate, duration)


def test_the_shipped_trace_is_bursty() -> None:
    """Over windows of some seconds, its counts vary far more than those of a Poisson process."""
    counts = {}
    for spec in ("poisson", "trace:azure_conv"):
        offsets = draw(spec, 5.5, 3500.0)
        counts[spec] = np.histogram(offsets, bins=100)[0]
    assert counts["trace:azure_conv"].var() > 3 * counts["poisson"].var()
    assert (arrivals.TRACES / "README.md").is_file()  # whose licence asks for attribution
