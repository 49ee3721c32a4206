"""Systems under study: who runs when, and what is counted meanwhile."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest

from loadtest.load.open_loop import make_schedule
from loadtest.studies.live import systems as live_systems
from loadtest.studies.live.systems import SETTLING, System, measure, settling
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.images import AnnotatedImage
from serving.core.demand import WINDOW
from tests.loadtest.load.answering import Server as Answering
from tests.loadtest.load.answering import answers, replies, serving
from tests.loadtest.load.runs import SETTINGS

PICTURE = AnnotatedImage("a.jpg", b"a", "image/jpeg")
LOAD = replace(
    SETTINGS,
    images=(PICTURE,),
    arrivals=parse_arrivals("constant"),
    rate_hz=200.0,
    duration_s=0.1,
    warm_up=3,
)
BEFORE = 3 + len(make_schedule(settling(LOAD)))
"""Requests that precede a run."""


@dataclass
class Paused:
    """A server that is never really paused, and notes after how many requests it was."""

    server: Answering
    log: list[tuple[str, int]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    def pause(self) -> None:
        self.log.append(("pause", len(self.server.seen)))

    def resume(self) -> None:
        self.log.append(("resume", len(self.server.seen)))


def system(server: Answering, policy: str | None) -> tuple[System, Paused]:
    paused = Paused(server)
    return System("it", paused, policy, PICTURE), paused  # type: ignore[arg-type]


def test_a_run_lies_between_a_pause_and_the_next() -> None:
    with serving({b"a": answers()}) as server:
        it, paused = system(server, None)
        found = measure(it, replace(LOAD, url=server.url))
    assert found.summary.count == 20
    assert found.account.server is None
    # One more begins the run, and one ends it, so that nothing runs when it is paused.
    assert paused.log == [("resume", 0), ("pause", BEFORE + 1 + 20 + 1)]


def test_a_server_that_answers_nothing_is_paused_all_the_same() -> None:
    with serving({b"a": replies(500, {})}) as server:
        it, paused = system(server, None)
        it.pause_when_idle()
    assert paused.log == [("pause", 1)]


def test_the_servers_counts_are_read_until_they_hold_the_last_reply(monkeypatch) -> None:
    read: list[int] = []

    def text(url: str) -> str:
        """As of a server that has counted one request less than it has answered, at first."""
        assert url == f"{server.url}/metrics"
        behind = 1 if len(read) in (1, 3) else 0
        read.append(len(server.seen) - behind)
        return f'punctual_requests_total{{outcome="ok"}} {read[-1]}.0'

    monkeypatch.setattr(live_systems, "get_text", text)
    with serving({b"a": answers()}) as server:
        it, _ = system(server, "deadline")
        found = measure(it, replace(LOAD, url=server.url))
    assert read == [0, BEFORE - 1, BEFORE, BEFORE + 20, BEFORE + 21]
    assert found.account.server == {**dict.fromkeys(found.account.client, 0), "answered": 21}
    assert found.account.agrees


def test_counts_that_never_agree_are_taken_as_they_are(monkeypatch) -> None:
    monkeypatch.setattr(live_systems, "SETTLE_S", 0.0)
    monkeypatch.setattr(live_systems, "get_text", lambda _: "")
    with serving({}) as server:
        it, _ = system(server, "deadline")
        assert it.counts_at_rest(5) == Counter()


def test_what_precedes_a_run_fills_what_a_server_remembers_of_its_arrivals() -> None:
    assert SETTLING > WINDOW
    before = settling(replace(LOAD, arrivals=parse_arrivals("burst:1:1:20")))
    assert before.arrivals.name == "poisson"
    assert before.duration_s * before.rate_hz == SETTLING
    assert (before.rate_hz, before.budgets) == (LOAD.rate_hz, LOAD.budgets)
    assert make_schedule(before).digest != make_schedule(LOAD).digest


@pytest.mark.parametrize("name", live_systems.POLICIES)
def test_policies_are_there(name: str) -> None:
    from loadtest.policies.named import parse_policy

    assert callable(parse_policy(name))
