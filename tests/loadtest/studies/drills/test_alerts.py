"""How a drill of alerts goes about it, over a Prometheus that says what it is told to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest.servers.processes import StudyError
from loadtest.studies.drills import alerts as alert_drill
from loadtest.studies.drills.alerts import AlertDrillSettings, Bench, DrillStep, _provoke

SETTINGS = AlertDrillSettings(
    model_repository=Path("repository"),
    runtime="onnxruntime",
    rules=Path("rules.yaml"),
    images=(),
    speed=60.0,
    rate_hz=5.0,
    flood_hz=50.0,
    budgets="100",
    baseline_s=1.0,
    patience_s=10.0,
    healthy_s=1.0,
    seed=0,
)
WANTED = frozenset({"A", "B"})


class Scripted:
    """Fires what its script says, and then the last of it for ever; a second passes each time."""

    def __init__(self, *script: set[str]) -> None:
        self.now_s = 0.0
        self._script = list(script)

    def firing(self) -> frozenset[str]:
        self.now_s += 1.0
        return frozenset(self._script.pop(0) if len(self._script) > 1 else self._script[0])


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def bench(*script: set[str]) -> Bench:
        prometheus: Any = Scripted(*script)
        # The drill's own, for what else runs in this process needs the real one.
        clock = SimpleNamespace(monotonic=lambda: prometheus.now_s, sleep=lambda _: None)
        monkeypatch.setattr(alert_drill, "time", clock)
        server: Any = None
        return Bench(SETTINGS, server, prometheus, tmp_path / "fault", lambda: None)

    return bench


def step(ends: bool = True) -> DrillStep:
    return DrillStep("x", WANTED, lambda bench: bench.suffering("stuck"), ends)


def test_when_each_fired_and_what_else(make) -> None:
    bench = make({"old"}, set(), {"A"}, {"A", "C"}, {"A", "B"}, {"A"}, set())
    found = _provoke(bench, step())
    assert found.fired_s == {"A": 2.0, "B": 4.0}
    assert found.others == ("C",)
    assert found.ended_s == 2.0
    assert (bench.fault.read_text(), found.ends) == ("", True)


def test_one_that_never_fires_and_one_that_never_ends(make) -> None:
    found = _provoke(make(set(), {"A"}), step())
    assert found.fired_s == {"A": 1.0, "B": None}
    assert found.ended_s is None


def test_what_lasts_need_not_end(make) -> None:
    (lasting,) = alert_drill.LASTING
    found = _provoke(make(set(), {"A", "B", lasting}, {lasting}), step())
    assert found.ended_s == 1.0
    assert _provoke(make(set(), {"A", "B"}), step(ends=False)).ended_s is None


def test_an_alert_that_fires_already_proves_nothing(make) -> None:
    with pytest.raises(StudyError, match="A fired before being provoked"):
        _provoke(make({"A"}), step())


def test_the_fault_is_there_for_as_long_as_it_takes(make, monkeypatch) -> None:
    bench = make(set())
    seen: list[str] = []

    @contextlib.contextmanager
    def noted(self: Bench, fault: str) -> Iterator[None]:
        self.fault.write_text(fault)
        yield
        seen.append(self.fault.read_text())
        self.fault.write_text("")

    monkeypatch.setattr(Bench, "suffering", noted)
    _provoke(bench, step())
    assert seen == ["stuck"]
