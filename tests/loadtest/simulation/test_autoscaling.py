"""Scaling in virtual time: the autoscaler's arithmetic, what it is shown, and what comes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from loadtest.simulation import autoscaling
from loadtest.simulation.autoscaling import (
    DOWN_WINDOW_S,
    MAX_SERVERS,
    STARTUP_S,
    SYNC_S,
    Autoscaler,
    FleetSample,
    Flood,
    Signals,
    demand_and_shed,
    latency,
    queue,
    scalers,
    simulate,
)
from loadtest.simulation.profiles import FOLDER, ModelProfile, load_profile
from tests.k8s.manifests import K8S

CALM = Signals(servers=4, p99_s=0.05, waiting=1.0, demand=2.0, shed=0.0)
SAMPLE = FleetSample(15.0, 4, 2.0, 300, (0.1, 0.2), 290, 250.0, 3)


def decide(wanted: float, current: int = 4, now_s: float = 15.0) -> int:
    return Autoscaler(lambda _: wanted).decide(now_s, current, CALM)


@pytest.mark.parametrize(
    ("wanted", "decided"),
    [
        (4.0, 4),
        (4.3, 4),  # near enough
        (3.6, 4),
        (4.5, 5),
        (7.2, 8),
        (100.0, 8),  # no more than as many again, or four
    ],
)
def test_as_many_as_are_wanted_by_steps(wanted: float, decided: int) -> None:
    assert decide(wanted) == decided


def test_bounds() -> None:
    assert decide(1e9, current=MAX_SERVERS - 1) == MAX_SERVERS
    scaler = Autoscaler(lambda _: 0.0)
    count = 3
    for sync in range(200):
        count = scaler.decide(sync * SYNC_S, count, CALM)
    assert count == 2


def test_it_goes_down_slowly_and_after_a_while() -> None:
    wanted = 10.0
    scaler = Autoscaler(lambda _: wanted)
    assert scaler.decide(0.0, 10, CALM) == 10
    wanted = 2.0
    counts = [10]
    for sync in range(1, 40):
        counts.append(scaler.decide(sync * SYNC_S, counts[-1], CALM))
    first = counts.index(9)
    assert first * SYNC_S == DOWN_WINDOW_S  # until nothing in the window asks for ten
    assert counts[first : first + 5] == [9, 9, 9, 9, 8]  # one of ten a minute


def test_what_scalers_want() -> None:
    assert latency(0.1)(CALM) == 4 * 0.5
    assert queue(10.0)(CALM) == 4 * 0.1
    assert demand_and_shed(0.5)(CALM) == 4.0
    # A fifth is shed by four: five would have served them all.
    assert demand_and_shed(0.5)(replace(CALM, shed=0.2)) == 5.0
    assert demand_and_shed(0.5)(replace(CALM, shed=0.005)) == 4.0
    assert demand_and_shed(0.5)(replace(CALM, shed=1.0)) == pytest.approx(40.0)


def test_signals_are_of_the_last_samples() -> None:
    older = replace(SAMPLE, servers=2, waiting=0.0, arrived=100, latencies_s=(0.3,), shed=13)
    signals = Signals.of((older, SAMPLE), full_depth_s=0.05)
    assert signals.servers == 4
    assert signals.waiting == 1.0
    assert signals.demand == 300 / SYNC_S * 0.05
    assert signals.shed == 16 / 400
    assert 0.2 < signals.p99_s < 0.3
    assert Signals.of((replace(SAMPLE, latencies_s=()),), 0.05).p99_s == 0.0


def test_it_scales_as_the_manifests_do() -> None:
    spec = yaml.safe_load((K8S / "components/keda/scaledobject.yaml").read_text())["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, MAX_SERVERS)
    assert spec["pollingInterval"] == SYNC_S
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    up = {policy["type"]: policy["value"] for policy in behavior["scaleUp"]["policies"]}
    assert up == {"Percent": 100 * autoscaling.UP_SHARE, "Pods": autoscaling.UP_PODS}
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    (down,) = behavior["scaleDown"]["policies"]
    assert down["value"] == 100 * autoscaling.DOWN_SHARE
    assert down["periodSeconds"] == autoscaling.DOWN_PERIOD_S
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == DOWN_WINDOW_S
    demand, shed = (trigger["metadata"] for trigger in spec["triggers"])
    target = float(demand["threshold"])
    scaler = scalers(1.0, target)[autoscaling.SHIPPED]
    assert scaler is not None
    assert scaler(CALM) == CALM.demand / target
    assert f"> bool {autoscaling.MAX_SHED:g}" in shed["query"]


def slow_profile(folder: Path) -> Path:
    """A tenth of the requests of cpu-lite show the same."""
    content = json.loads((FOLDER / "cpu-lite.json").read_text())
    times = {name: 10 * value for name, value in content.items() if name.endswith("_ms")}
    path = folder / "slow.json"
    path.write_text(json.dumps({**content, **times}))
    return path


def flooded(profile: ModelProfile, scaler: Autoscaler) -> tuple[int, list[FleetSample]]:
    flood = Flood(1.0, duration_s=120.0, start_s=30.0, length_s=90.0, factor=3.0)
    requests = flood.requests(profile, "3x", np.random.default_rng(0))
    rng = np.random.default_rng(1)
    return len(requests), simulate(profile, requests, flood.duration_s, 2, scaler, rng)


def test_a_flood_costs_accuracy_and_only_demand_tells(tmp_path: Path) -> None:
    profile = load_profile(str(slow_profile(tmp_path)))
    budget_s = 3 * profile.full_depth_s
    runs = {}
    for name, wanted in scalers(budget_s, 0.7).items():
        if wanted is not None:
            count, runs[name] = flooded(profile, Autoscaler(wanted))
            arrived = sum(sample.arrived for sample in runs[name])
            assert arrived == count
            ended = sum(len(sample.latencies_s) + sample.shed for sample in runs[name])
            assert count - 40 <= ended <= count  # the last are still at work
    by_latency, by_queue, by_demand = runs.values()
    assert by_latency == by_queue
    assert {sample.servers for sample in by_latency} == {2}
    grown = next(sample.time_s for sample in by_demand if sample.servers > 2)
    assert 30.0 + SYNC_S + STARTUP_S <= grown <= 30.0 + 3 * SYNC_S + STARTUP_S
    calm, *_, flood = (sample.sum_ap / sample.in_time for sample in by_latency)
    rescued = by_demand[-1].sum_ap / by_demand[-1].in_time
    assert flood < calm - 0.1
    assert rescued > calm - 0.02
