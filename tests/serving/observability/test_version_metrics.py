from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from serving.core.agreement import Agreement
from serving.core.request import Cancelled, Request
from serving.observability.version_metrics import VersionMetrics, VersionObserver
from tests.serving.world import Recorder

REQUEST = Request(1, 0.0, 1.0, 1, 3)


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"punctual_{name}", labels)


def test_versions_come_and_go() -> None:
    registry = CollectorRegistry()
    metrics = VersionMetrics(registry)
    metrics.name_versions(("1-a", "2-b"))
    metrics.answered("1-a", Cancelled(REQUEST, 0.5))
    metrics.answered("3-c", Cancelled(REQUEST, 0.5))
    name = "version_results_total"
    assert sample(registry, name, version="1-a", result="cancelled") == 1
    assert sample(registry, name, version="2-b", result="answered") == 0
    assert sample(registry, name, version="3-c", result="cancelled") is None
    metrics.name_versions(("1-a",))
    assert sample(registry, name, version="2-b", result="answered") is None
    assert sample(registry, name, version="1-a", result="cancelled") == 1, "it goes on counting"


def test_what_nobody_asked_for_is_none_of_the_servers_requests() -> None:
    registry, recorder = CollectorRegistry(), Recorder()
    metrics = VersionMetrics(registry)
    metrics.name_versions(("1-a",))
    observer = VersionObserver(recorder, metrics, "1-a")
    asked = Cancelled(REQUEST, 0.5)
    observer.ended(asked)
    observer.ended(Cancelled(replace(REQUEST, id=-1), 0.5))
    assert recorder.results == [asked]
    labels = {"version": "1-a", "result": "cancelled"}
    assert sample(registry, "version_results_total", **labels) == 2


def test_agreement_is_counted_by_box() -> None:
    registry = CollectorRegistry()
    metrics = VersionMetrics(registry)
    metrics.compared(Agreement((1, 2), (0.25, -0.5, 0.0)))
    boxes = {
        who: sample(registry, "shadow_boxes_total", who=who)
        for who in ("both", "current", "shadow")
    }
    assert boxes == {"both": 3, "current": 1, "shadow": 2}
    assert sample(registry, "shadow_score_difference_sum") == pytest.approx(0.75)
