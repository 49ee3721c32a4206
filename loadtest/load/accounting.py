"""A comparison of how many requests client and server counted for each way in which one can end.

    scheduled = the sum of ``ENDS``                                                  by the client
    scheduled + warm-up = unseen + the growth of punctual_requests_total             by the server

"Unseen" is what the HTTP server itself turns away with 503 at its limit of connections: the
application, whose metrics they are, is not told. "Late" is a request that the server gave up with
504; an answer that reached the client too late is an answer here, as it is to the server.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loadtest.load.outcomes import Outcome
from loadtest.load.summary import Summary

UNSEEN = "unseen"
ENDS = ("answered", "rejected", "evicted", "infeasible", "late", "superseded", UNSEEN, "other")
_SERVER_ENDS = {"ok": "answered", "degraded": "answered"}
"""Outcome in the server's metrics -> end, where the two have different names."""
_REASON_ENDS = {
    "budget-infeasible": "infeasible",
    "deadline-exceeded": "late",
    "http-503": UNSEEN,
}
"""Reason that the client was given -> end; other reasons begin with the name of theirs."""
_PEER_ENDS = {"http-503": "rejected", "http-504": "late"}
"""Reason -> end for peers, whose only reason is a status."""
_SAMPLE = re.compile(r'^punctual_requests_total\{outcome="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Account:
    """Numbers of requests by how they ended, by client and by server; each of ``ENDS`` is there."""

    scheduled: int
    client: Mapping[str, int]
    server: Mapping[str, int] | None
    """End -> requests that the server counted, with the warm-up; None if it does not tell."""
    warm_up: int
    """Number of warm-up requests, of whose ends the client keeps no account."""
    connection_errors: int
    unsent: int

    @property
    def is_complete(self) -> bool:
        """Return whether the client knows of every request how it ended."""
        return sum(self.client.values()) == self.scheduled

    @property
    def agrees(self) -> bool:
        """Return whether the server, if it tells, counted the same as the client.

        It must have counted every end at least as often, and beyond that only the warm-up requests.
        """
        if self.server is None:
            return True
        beyond = [self.server[end] - self.client[end] for end in ENDS if end != UNSEEN]
        return min(beyond) >= 0 and sum(beyond) == self.warm_up


def server_counts(exposition: str) -> Counter[str]:
    """Return end -> requests since the server's start, from the text of its /metrics."""
    counts: Counter[str] = Counter()
    for outcome, value in _SAMPLE.findall(exposition):
        counts[_known(_SERVER_ENDS.get(outcome, outcome))] += int(float(value))
    return counts


def account(
    summary: Summary, before: Counter[str] | None, after: Counter[str] | None, warm_up: int
) -> Account:
    """Return the account of one run.

    ``before`` and ``after`` the run are the server's counts, if it has any; ``warm_up`` requests
    between them are not of the run.
    """
    ends = _PEER_ENDS if before is None else _REASON_ENDS
    client: Counter[str] = Counter()
    for outcome, count in summary.outcomes.items():
        if outcome == Outcome.REFUSED:
            for reason, of_reason in summary.reasons.get(outcome, {}).items():
                end = ends.get(reason, reason.partition("-")[0])
                client[_known(end)] += of_reason
        else:
            answered = outcome in (Outcome.IN_TIME, Outcome.LATE)
            client["answered" if answered else "other"] += count
    server = None
    if before is not None and after is not None:
        server = {end: after[end] - before[end] for end in ENDS}
    return Account(
        scheduled=summary.count,
        client={end: client[end] for end in ENDS},
        server=server,
        warm_up=warm_up,
        connection_errors=summary.outcomes[Outcome.CONNECTION_ERROR],
        unsent=summary.outcomes[Outcome.UNSENT],
    )


def total(accounts: Iterable[Account]) -> Account:
    """Return the sum of some accounts; of the server's side only if each has one.

    Raises ValueError for no accounts.
    """
    accounts = tuple(accounts)
    if not accounts:
        raise ValueError("no accounts have no sum")
    servers = [a.server for a in accounts if a.server is not None]
    return Account(
        scheduled=sum(a.scheduled for a in accounts),
        client={end: sum(a.client[end] for a in accounts) for end in ENDS},
        server=(
            {end: sum(server[end] for server in servers) for end in ENDS}
            if len(servers) == len(accounts)
            else None
        ),
        warm_up=sum(a.warm_up for a in accounts),
        connection_errors=sum(a.connection_errors for a in accounts),
        unsent=sum(a.unsent for a in accounts),
    )


def _known(end: str) -> str:
    return end if end in ENDS else "other"
