"""Whether client and server counted the same requests with the same ends.

    scheduled = answered + rejected + evicted + infeasible + late + unseen + other   by the client
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
ENDS = ("answered", "rejected", "evicted", "infeasible", "late", UNSEEN, "other")
_SERVER_ENDS = {"ok": "answered", "degraded": "answered"}
"""Outcome in the server's metrics -> end, where they differ."""
_REASON_ENDS = {
    "budget-infeasible": "infeasible",
    "deadline-exceeded": "late",
    "http-503": UNSEEN,
}
"""Reason that the client was given -> end; others are named after theirs."""
_PEER_ENDS = {"http-503": "rejected", "http-504": "late"}
"""Peers give no reasons but a status."""
_SAMPLE = re.compile(r'^punctual_requests_total\{outcome="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Account:
    """Requests by how they ended; each of ``ENDS`` is there."""

    scheduled: int
    client: Mapping[str, int]
    server: Mapping[str, int] | None
    """With those that warmed it up; None where the server does not tell."""
    warm_up: int
    """How many of them there were, of whose ends the client keeps no account."""
    connection_errors: int
    unsent: int

    @property
    def is_complete(self) -> bool:
        """Whether the client knows of every request how it ended."""
        return sum(self.client.values()) == self.scheduled

    @property
    def agrees(self) -> bool:
        """Whether the server, if it tells, counted the same: every end as often as the client, and
        beyond that only those that warmed it up."""
        if self.server is None:
            return True
        beyond = [self.server[end] - self.client[end] for end in ENDS if end != UNSEEN]
        return min(beyond) >= 0 and sum(beyond) == self.warm_up


def server_counts(exposition: str) -> Counter[str]:
    """End -> requests since the server's start, from its /metrics."""
    counts: Counter[str] = Counter()
    for outcome, value in _SAMPLE.findall(exposition):
        counts[_known(_SERVER_ENDS.get(outcome, outcome))] += int(float(value))
    return counts


def account(
    summary: Summary, before: Counter[str] | None, after: Counter[str] | None, warm_up: int
) -> Account:
    """Of one run. ``before`` and ``after`` it are the server's counts, if it has any; ``warm_up``
    requests between them are not of the run."""
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
    """All of them added up; the server's side if each has one. Raises ValueError for none."""
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
