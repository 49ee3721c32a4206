"""Schedules, and runs against a server with every way to disappoint."""

from __future__ import annotations

import os
import resource
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from loadtest.load import open_loop as module
from loadtest.load.open_loop import LoadSettings, allow_files, make_schedule, real_time, run_load
from loadtest.load.outcomes import Outcome
from loadtest.servers.free_ports import free_port
from loadtest.servers.processes import StudyError
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.budgets import parse_budgets
from loadtest.workload.images import AnnotatedImage
from tests.loadtest.load.answering import Handler, answers, hangs_up, is_silent, replies, serving


def settings(url: str = "http://x", names: str = "abc", **changes) -> LoadSettings:
    """A hundred requests within a tenth of a second, who have a minute each."""
    images = tuple(AnnotatedImage(name, name.encode(), "image/jpeg") for name in names)
    usual = LoadSettings(
        url=url,
        images=images,
        arrivals=parse_arrivals("constant"),
        rate_hz=1000,
        duration_s=0.1,
        budgets=parse_budgets("60000"),
        full_depth_s=0.02,
        warm_up=1,
    )
    return replace(usual, **changes)


def test_the_seed_fixes_the_schedule():
    mixed = settings(arrivals=parse_arrivals("poisson"), budgets=parse_budgets("1x,2x"))
    schedule = make_schedule(mixed)
    assert schedule.digest == make_schedule(mixed).digest
    assert schedule.digest != make_schedule(replace(mixed, seed=1)).digest
    assert set(schedule.budgets_s) == {0.02, 0.04}
    assert next(iter(schedule)) == (
        schedule.offsets_s[0],
        schedule.budgets_s[0],
        schedule.images[0],
    )


def test_other_budgets_leave_arrivals_and_pictures_as_they_are():
    one = make_schedule(settings(arrivals=parse_arrivals("poisson")))
    two = make_schedule(
        settings(arrivals=parse_arrivals("poisson"), budgets=parse_budgets("uniform:1:2"))
    )
    assert one.offsets_s.tolist() == two.offsets_s.tolist()
    assert one.images.tolist() == two.images.tolist()
    assert one.digest != two.digest


def test_pictures_are_sent_equally_often_in_changing_order():
    images = make_schedule(settings()).images
    assert np.bincount(images[:99]).tolist() == [33, 33, 33]
    assert len({tuple(images[i : i + 3]) for i in range(0, 99, 3)}) > 1


def test_schedules_that_make_no_sense(monkeypatch):
    with pytest.raises(ValueError, match="at least one picture"):
        make_schedule(settings(names=""))
    monkeypatch.setattr(module, "MAX_REQUESTS", 99)
    with pytest.raises(ValueError, match="1 to 99 requests, not 100"):
        make_schedule(settings())


def test_every_request_ends_in_one_way():
    table = {
        b"a": answers(depth=3, ap=0.5),
        b"b": replies(503, {"reason": "rejected-overload"}),
        b"c": replies(500, {"detail": "x"}),
        b"d": hangs_up,
        b"e": replies(200, b"no JSON"),
    }
    with serving(table, {"name": "cells"}) as server:
        result = run_load(settings(server.url, "abcde"))
        assert len(server.seen) == 101  # and one to warm up
    assert Counter((row.outcome, row.reason) for row in result.outcomes) == {
        (Outcome.IN_TIME, ""): 20,
        (Outcome.REFUSED, "rejected-overload"): 20,
        (Outcome.HTTP_ERROR, "http-500"): 20,
        (Outcome.CONNECTION_ERROR, "closed"): 20,
        (Outcome.HTTP_ERROR, "unreadable-reply"): 20,
    }
    in_time = [row for row in result.outcomes if row.outcome is Outcome.IN_TIME]
    assert all((row.depth, row.expected_ap) == (3, 0.5) for row in in_time)
    assert [row.scheduled_s for row in result.outcomes] == result.schedule.offsets_s.tolist()
    assert all(0 <= row.scheduled_s <= row.sent_s <= row.finished_s for row in result.outcomes)
    assert result.server == {"name": "cells"}
    assert result.cpu_s > 0


def test_budgets_are_sent_and_judged_by_the_clients_clock():
    with serving({b"a": answers()}) as server:
        late = run_load(settings(server.url, "a", budgets=parse_budgets("0.001"), grace_s=60.0))
        assert {headers["X-Deadline-Ms"] for _, headers, _ in server.seen[1:]} == {"0.001"}
    assert {row.outcome for row in late.outcomes} == {Outcome.LATE}


def test_requests_do_not_wait_for_replies():
    """No reply comes before all requests are there."""
    all_there = threading.Barrier(50)

    def wait_for_the_others(handler: Handler, body: bytes) -> None:
        if len(handler.server.seen) > 1:  # after the one to warm up
            all_there.wait()
        answers()(handler, body)

    with serving({b"a": wait_for_the_others}) as server:
        result = run_load(settings(server.url, "a", duration_s=0.05))
    assert Counter(row.outcome for row in result.outcomes) == {Outcome.IN_TIME: 50}
    assert result.peak_connections == 50


def answer_the_first(handler: Handler, body: bytes) -> None:
    (is_silent if len(handler.server.seen) > 1 else answers())(handler, body)


def test_who_never_answers_is_given_up():
    with serving({b"a": answer_the_first}) as server:
        hasty = settings(server.url, "a", budgets=parse_budgets("1"), grace_s=0.01)
        result = run_load(hasty)
    assert {row.outcome for row in result.outcomes} == {Outcome.TIMEOUT}
    assert min(row.latency_s for row in result.outcomes) >= 0.011


def test_without_connections_left_requests_are_counted_as_unsent():
    with serving({b"a": answer_the_first}) as server:
        hasty = settings(server.url, "a", budgets=parse_budgets("1"), grace_s=0.3)
        result = run_load(replace(hasty, max_connections=2))
    outcomes = Counter(row.outcome for row in result.outcomes)
    assert outcomes[Outcome.UNSENT] >= 1
    assert outcomes[Outcome.TIMEOUT] == 100 - outcomes[Outcome.UNSENT]
    assert result.peak_connections == 2


def test_nobody_there():
    with pytest.raises(StudyError, match="does not answer: connection-refused"):
        run_load(settings(f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(StudyError, match="cannot be reached"):
        run_load(settings("http://name.invalid"))


def test_real_time_ends(monkeypatch):
    before = os.sched_getscheduler(0)
    with real_time():
        pass
    assert os.sched_getscheduler(0) == before

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with real_time() as permitted:
        assert not permitted


def test_files_are_asked_for_up_to_the_limit(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert allow_files(20) == 20
    assert allow_files(200) == 200
    assert allow_files(5000) == 936
    assert asked == [(264, 1000), (1000, 1000)]
