"""Client's and server's counts of the same requests."""

from collections import Counter
from dataclasses import replace

import pytest

from loadtest.load.accounting import ENDS, account, server_counts, total
from loadtest.load.outcomes import Outcome
from loadtest.load.summary import summarise
from tests.loadtest.load.runs import ROWS, answer, failure, result

EXPOSITION = """\
# TYPE punctual_requests_total counter
punctual_requests_total{outcome="ok"} 7.0
punctual_requests_total{outcome="degraded"} 5.0
punctual_requests_total{outcome="rejected"} 1.0
punctual_requests_total{outcome="cancelled"} 2.0
punctual_shed_total{reason="rejected-overload"} 1.0
"""


def test_the_server_counts_by_outcome() -> None:
    assert server_counts(EXPOSITION) == {"answered": 12, "rejected": 1, "other": 2}
    assert server_counts("") == {}


def test_the_client_counts_each_request_once() -> None:
    found = account(summarise(result(ROWS, images=(PLAIN,))), Counter(), None, 0)
    assert found.client == {
        "answered": 4,
        "rejected": 1,
        "evicted": 0,
        "infeasible": 2,
        "late": 0,
        "superseded": 0,
        "unseen": 0,
        "other": 3,
    }
    assert found.scheduled == len(ROWS)
    assert found.is_complete
    assert found.agrees  # since nobody contradicts
    assert found.connection_errors == 1


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("rejected-saturated", "rejected"),
        ("evicted-expired", "evicted"),
        ("budget-infeasible", "infeasible"),
        ("deadline-exceeded", "late"),
        ("http-503", "unseen"),
        ("backend-fault", "other"),
    ],
)
def test_a_refusal_ends_as_its_reason_says(reason: str, end: str) -> None:
    rows = [answer(0.0, 0.01), failure(0.1, Outcome.REFUSED, reason)]
    found = account(summarise(result(rows, images=(PLAIN,))), Counter(), None, 0)
    assert Counter(found.client) == Counter({"answered": 1, end: 1})


def test_a_peer_refuses_by_status() -> None:
    reasons = ("http-503", "http-504", "http-504")
    rows = [failure(0.1, Outcome.REFUSED, reason) for reason in reasons]
    found = account(summarise(result(rows, images=(PLAIN,))), None, None, 0)
    assert Counter(found.client) == Counter(rejected=1, late=2)


def test_what_the_http_server_turns_away_is_not_in_the_servers_counts() -> None:
    rows = [answer(0.0, 0.01), failure(0.1, Outcome.REFUSED, "http-503")]
    summary = summarise(result(rows, images=(PLAIN,)))
    assert account(summary, Counter(), Counter(answered=6), 5).agrees
    assert not account(summary, Counter(), Counter(answered=6, rejected=1), 5).agrees


def test_what_warmed_the_server_up_is_not_of_the_run() -> None:
    summary = summarise(result([answer(0.0, 0.01), answer(0.1, 0.9)], images=(PLAIN,)))
    before = Counter(answered=100, rejected=3)
    agreed = account(summary, before, Counter(answered=111, rejected=4), 10)
    assert agreed.server == {**dict.fromkeys(ENDS, 0), "answered": 11, "rejected": 1}
    assert agreed.agrees
    lost = account(summary, before, Counter(answered=111, rejected=3), 10)
    assert not lost.agrees
    other_end = account(summary, before, Counter(answered=101, rejected=14), 10)
    assert not other_end.agrees  # one of the two that the client saw answered
    both = total([agreed, lost])
    assert both.scheduled == 4
    assert both.client["answered"] == 4
    assert both.server is not None
    assert both.server["answered"] == 22
    assert both.warm_up == 20
    assert total([agreed, replace(agreed, server=None)]).server is None
    with pytest.raises(ValueError, match="no accounts"):
        total([])


PLAIN = replace(result(ROWS).settings.images[0], objects=None)
