"""LoadGen itself against a small server: its verdict, our counts; refusing does not pay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mlperf_loadgen", reason="LoadGen has no wheel for this platform")

from loadtest.load.loadgen import (
    RESULT_NAME,
    LoadgenResult,
    LoadgenSettings,
    read_summary,
    report,
    run_loadgen,
)
from loadtest.load.target import Target
from loadtest.servers.free_ports import free_port
from loadtest.servers.processes import StudyError
from loadtest.workload.images import AnnotatedImage
from tests.loadtest.load.answering import answers, hangs_up, replies, serving

PICTURES = (AnnotatedImage("a", b"a", "image/jpeg"), AnnotatedImage("b", b"b", "image/jpeg"))


def run(url: str, folder: Path, budget_s: float, percentile: float = 0.5) -> LoadgenResult:
    """A hundred queries, more or less."""
    return run_loadgen(
        LoadgenSettings(
            url=url,
            images=PICTURES,
            target=Target(),
            rate_hz=200.0,
            budget_s=budget_s,
            percentile=percentile,
            min_duration_s=0.5,
            max_queries=1000,
            grace_s=60.0,
            seed=0,
            folder=folder,
        )
    )


def latency_s(result: LoadgenResult, name: str) -> float:
    return int(result.facts[f"{name} latency (ns)"]) / 1e9


def test_a_server_that_answers_is_valid(tmp_path):
    with serving({b"a": answers(), b"b": answers()}) as server:
        result = run(server.url, tmp_path / "logs", budget_s=60.0)
        asked = len(server.seen)
    assert result.is_valid
    assert result.attainment == 1.0
    assert result.outcomes["in time"] == result.count == asked - 10  # ten to warm up
    assert result.facts["Scenario"] == "Server"
    assert "LoadGen says VALID" in report(result)
    written = json.loads((tmp_path / "logs" / RESULT_NAME).read_text())
    assert written["outcomes"] == result.outcomes
    assert (tmp_path / "logs" / "mlperf_log_detail.txt").exists()


@pytest.mark.parametrize("refuse", [replies(503, {"reason": "rejected-overload"}), hangs_up])
def test_refusing_does_not_pay(tmp_path, refuse):
    """Every refusal is quick, and every one of them counts as slower than the budget."""
    warm = iter(range(10))

    def refuse_when_it_counts(handler, body):
        (answers() if next(warm, None) is not None else refuse)(handler, body)

    with serving({b"a": refuse_when_it_counts, b"b": refuse_when_it_counts}) as server:
        result = run(server.url, tmp_path, budget_s=0.3)
    assert not result.is_valid
    assert result.facts["Performance constraints satisfied"] == "NO"
    assert latency_s(result, "Min") > 0.3
    assert result.attainment == 0.0
    assert sum(result.reasons.values()) == result.count
    assert "INVALID" in report(result)


def test_a_verdict_is_read_beside_our_counts():
    text = """
        Result is : INVALID
          Early stopping satisfied: NO
        Recommendations:
         * Run longer.
        =====
        99.00 percentile latency (ns)   : 1500000
        """
    result = read_summary(text, [])
    assert (result.is_valid, result.advice, result.count) == (False, ("Run longer.",), 0)
    assert result.facts["99.00 percentile latency (ns)"] == "1500000"


def test_no_verdict_is_an_error():
    with pytest.raises(StudyError, match="without a verdict"):
        read_summary("Result is : UNKNOWN", [])


def test_settings_that_make_no_sense(tmp_path):
    with pytest.raises(ValueError, match="percentile must be below 1"):
        run("http://x", tmp_path, 1.0, percentile=1.0)
    with pytest.raises(StudyError, match="does not answer"):
        run(f"http://127.0.0.1:{free_port()}", tmp_path, 1.0)
