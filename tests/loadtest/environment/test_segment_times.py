"""Segments timed for a study."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.environment.segment_times import (
    WARM_UP_ROUNDS,
    jitter_of,
    measure_segments,
    segments_now,
    slowed,
)
from loadtest.servers.processes import StudyError
from loadtest.simulation.profiles import load_profile, one_sided_quantiles
from serving.core.latency_profile import LatencyProfile
from serving.core.model_entry import ModelEntry
from serving.core.segment import fused_exit
from tests.serving.fakes import CATALOG
from tests.serving.world import FakeClock, FakeRunner, cost_s

ENTRY = ModelEntry((CATALOG,))


class Tools:
    """``ServingTools`` with a runner on a fake clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.runner = FakeRunner(clock, exits=(CATALOG.num_exits,))
        self.sizes: list[str] = []

    def open_runner(self, runtime, folder, num_threads, wanted=None, precision=None, size=None):
        self.sizes.append(size)
        return self.runner


def test_every_segment_at_every_batch_size() -> None:
    clock = FakeClock()
    tools = Tools(clock)
    profile = measure_segments(tools, Path(), ENTRY, "any", 3, clock)  # type: ignore[arg-type]
    runner = tools.runner
    assert set(profile.table) == {(s, size) for s in runner.segments for size in (1, 4)}
    for (segment, size), quantiles in profile.table.items():
        assert quantiles.p50_s == pytest.approx(cost_s(segment, size))
    assert len(runner.log) == (WARM_UP_ROUNDS + 3) * len(profile.table)
    assert tools.sizes == [CATALOG.size]
    assert LatencyProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_every_input_size_has_segments_of_its_own() -> None:
    clock = FakeClock()
    tools = Tools(clock)
    entry = ModelEntry((CATALOG, replace(CATALOG, input_width=2 * CATALOG.input_width)))
    profile = measure_segments(tools, Path(), entry, "any", 1, clock)  # type: ignore[arg-type]
    assert tools.sizes == list(entry.sizes)
    assert set(profile.table) == {
        (segment.of(model), size)
        for segment in tools.runner.segments
        for model in (0, 1)
        for size in (1, 4)
    }


def test_a_slower_machine() -> None:
    profile = load_profile("cpu-lite").latency
    twice = slowed(profile, 2.0)
    key = (fused_exit(1), 1)
    assert twice.table[key].p99_s == 2 * profile.table[key].p99_s
    assert twice.table.keys() == profile.table.keys()


@pytest.mark.parametrize("jitter", [0.0, 0.03, 0.5])
def test_jitter_is_found_again(jitter: float) -> None:
    table = {(fused_exit(k), 1): one_sided_quantiles(0.01 * k, jitter) for k in (1, 2, 3)}
    profile = LatencyProfile("any", "any", "", 1, table)
    assert jitter_of(profile) == pytest.approx(jitter)
    wild = {key: one_sided_quantiles(q.p50_s, 50.0) for key, q in table.items()}
    assert jitter_of(LatencyProfile("any", "any", "", 1, wild)) == pytest.approx(1.0)


def test_what_cannot_be_timed_is_told(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"(?s)could not be timed \(2\).*catalog\.json cannot"):
        segments_now(tmp_path, "openvino", 1)
