"""The table of ``tests.e2e.faults``; what is in it takes a machine of one's own to measure."""

from __future__ import annotations

from dataclasses import replace

from tests.e2e.backends import Ended
from tests.e2e.faults import HEAD, LOST, Outcome


def ended(status: int, slug: str = "") -> Ended:
    return Ended(0.0, 0.1, 0.05, status, slug, 0, 0.0)


def test_every_request_is_in_one_column() -> None:
    requests = [ended(200), ended(200), ended(503, "engine-stalled"), ended(0, LOST)]
    row = Outcome(20.0, requests, 10.0, 3.5, [(12.0, 1.25)]).row("a hang")
    assert row == (
        "| a hang | 20 | 4 | 2 | 1 engine-stalled | 1 | 2 of 4 | 0 of 0 | 2.00 | 1.25 | 3.5 |"
    )
    assert row.count("|") == HEAD.splitlines()[0].count("|")
    calm = Outcome(20.0, [ended(200)], 10.0, 0.0, []).row("nothing")
    assert calm == "| nothing | 20 | 1 | 1 | none | 0 | 0 of 1 | 0 of 0 |  |  | 0.0 |"


def test_who_was_under_way_while_it_happened_is_told_from_others() -> None:
    """Each is under way for .05 s; it happens from 10 to 13.5 s."""
    sent_s = {9.9: 200, 9.96: 504, 13.4: 503, 13.6: 200, 20.0: 504}
    requests = [replace(ended(status), sent_s=at_s) for at_s, status in sent_s.items()]
    row = Outcome(20.0, requests, 10.0, 3.5, []).row("a swap")
    assert "| 1 of 3 | 2 of 2 |" in row
