"""What a rolling restart cost, and the proxy that it is seen through."""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from loadtest.cli import drills as drill_cli
from loadtest.load.outcomes import Outcome, RequestOutcome
from loadtest.servers.processes import STOP_TIMEOUT_S, StudyError
from loadtest.servers.prometheus import ProgramMissing, find_program
from loadtest.studies.drills import restart as restart_drill
from loadtest.studies.drills.restart import (
    Gateways,
    RestartDrillSettings,
    count_unanswered,
    haproxy_config,
)

SETTINGS = RestartDrillSettings(
    model_repository=Path("repository"),
    runtime="onnxruntime",
    images=(),
    rate_hz=10.0,
    seconds=1.0,
    budgets="100",
    drain_delay_s=2.5,
    seed=0,
)
ROW = RequestOutcome(0.0, 0.0, 0.01, 0.1, 0, Outcome.IN_TIME)


def ended(outcome: Outcome, reason: str = "") -> RequestOutcome:
    return replace(ROW, outcome=outcome, reason=reason)


def test_what_a_restart_cost_and_what_load_did() -> None:
    ends = count_unanswered(
        (
            ROW,
            ended(Outcome.LATE),
            ended(Outcome.REFUSED, "deadline-exceeded"),
            ended(Outcome.REFUSED, "rejected-overload"),
            ended(Outcome.REFUSED, "evicted-expired"),
            ended(Outcome.REFUSED, "rejected-draining"),
            ended(Outcome.REFUSED, "http-503"),
            ended(Outcome.REFUSED, "backend-unavailable"),
            ended(Outcome.CONNECTION_ERROR, "closed"),
            ended(Outcome.CONNECTION_ERROR, "closed"),
            ended(Outcome.TIMEOUT, "no-reply-in-time"),
            ended(Outcome.HTTP_ERROR, "unreadable-reply"),
            ended(Outcome.UNSENT, "all-connections-in-use"),
        )
    )
    assert ends.late == 2
    assert ends.refused == {"rejected-overload": 1, "evicted-expired": 1}
    assert ends.failed == {
        "refused: rejected-draining": 1,
        "refused: http-503": 1,
        "refused: backend-unavailable": 1,
        "connection error: closed": 2,
        "timeout: no-reply-in-time": 1,
        "HTTP error: unreadable-reply": 1,
        "unsent: all-connections-in-use": 1,
    }


def test_modes_are_named_as_they_are() -> None:
    assert drill_cli.MODES == restart_drill.MODES


@pytest.mark.parametrize("mode", restart_drill.MODES)
def test_haproxy_takes_its_configuration(mode: str, tmp_path: Path) -> None:
    try:
        haproxy = find_program("haproxy")
    except ProgramMissing as error:
        pytest.skip(str(error))
    path = tmp_path / "haproxy.cfg"
    path.write_text(haproxy_config(mode, 8000, (8001, 8002)))
    subprocess.run([haproxy, "-c", "-f", str(path)], check=True, capture_output=True)
    assert f"mode {mode}" in path.read_text()


class Started:
    """In place of a gateway's process."""

    def __init__(self, log: list[str], name: str, port: object) -> None:
        self._log = log
        self._what = f"{name} on {port}"

    def __enter__(self) -> None:
        self._log.append(f"start {self._what}")

    def __exit__(self, *_: object) -> None:
        self._log.append(f"stop {self._what}")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    log: list[str] = []

    def gateway_server(name: str, given: dict[str, object], _: Path) -> Started:
        assert given["drain_delay_ms"] == 2500.0
        return Started(log, name, given["port"])

    monkeypatch.setattr(restart_drill, "gateway_server", gateway_server)
    # The drill's own, for what else runs in this process needs the real one.
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None)
    monkeypatch.setattr(restart_drill, "time", clock)
    return log


def test_one_after_the_other_each_on_its_port(events: list[str], tmp_path: Path) -> None:
    gateways = Gateways(SETTINGS, tmp_path, (81, 82))
    for port in gateways.ports:
        gateways.start(port)
    over = threading.Event()
    over.set()
    gateways.restart_in_turn(over)
    gateways.close()
    first, second = "number 0 on 81", "number 1 on 82"
    assert events == [
        *(f"start {which}" for which in (first, second)),
        *(f"{what} {which}" for which in (first, second) for what in ("stop", "start")),
        *(f"stop {which}" for which in (first, second)),
    ]
    assert len(gateways.drain_s) == len(gateways.outage_s) == 2


def test_a_gateway_that_has_to_be_killed(
    events: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateways = Gateways(SETTINGS, tmp_path, (81,))
    gateways.start(81)
    instants = iter((0.0, STOP_TIMEOUT_S))
    monkeypatch.setattr(f"{restart_drill.__name__}.time.monotonic", lambda: next(instants))
    with pytest.raises(StudyError, match="had not ended"):
        gateways.stop(81)
