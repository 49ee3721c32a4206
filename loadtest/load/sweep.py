"""A sweep over budgets, one request at a time: what an idle server makes of each budget.

Rounds are interleaved: each one sends every budget once, in a new order, so that a busy moment of
the machine falls on all budgets alike. Answers are judged by the client's clock, from the first
byte sent to the last byte received.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from loadtest.environment.spread import Spread
from loadtest.load.target import model_facts
from loadtest.servers.processes import NO_REPLY, StudyError
from serving.core.command_errors import InvalidArgument
from serving.core.quantiles import quantile
from serving.core.server_options import other_server, server_url_parts

_STAGE = re.compile(r"(\w+);dur=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class SweepReply:
    """One reply of a sweep. Times are in milliseconds by the client's clock."""

    status: int
    latency_ms: float
    body: dict[str, Any]
    stages_ms: dict[str, float]
    """Stage -> milliseconds, as the reply's Server-Timing says."""


@dataclass(slots=True)
class SweptBudget:
    """One budget of a sweep, with all replies to it."""

    budget_ms: float
    answers: list[SweepReply] = field(default_factory=list)

    @property
    def accepted(self) -> list[SweepReply]:
        """Return the replies that do not call the budget infeasible."""
        return [answer for answer in self.answers if answer.status != 422]

    @property
    def in_time(self) -> list[SweepReply]:
        """Return the replies that brought boxes within the budget."""
        return [
            answer
            for answer in self.answers
            if answer.status == 200 and answer.latency_ms <= self.budget_ms
        ]

    @property
    def expected_aps(self) -> list[float]:
        """Return the accuracies that are to be expected of the answers."""
        return [answer.body["expected_ap"] for answer in self.answers if answer.status == 200]


class SweepClient:
    """A client with one keep-alive connection to a server."""

    def __init__(self, url: str) -> None:
        parts = server_url_parts(url)
        if parts is None or parts.scheme != "http" or parts.hostname is None:
            raise InvalidArgument(f"expected http://host:port, not {url!r}")
        self._url = url
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80)

    def models(self) -> dict[str, Any]:
        """Return what GET /v1/models says, as ``model_facts``."""
        with self._understood("/v1/models"):
            self._connection.request("GET", "/v1/models")
            model = model_facts(json.loads(self._connection.getresponse().read()))
            _ = str(model["name"]), float(model["exits"][-1]["min_budget_ms"])
        return model

    def detect(self, image: bytes, budget_ms: float) -> SweepReply:
        """Send an image with a budget and return the reply, whatever it is."""
        headers = {"Content-Type": "image/jpeg", "X-Deadline-Ms": f"{budget_ms:.3f}"}
        started_s = time.perf_counter()
        with self._understood("/v1/detect"):
            self._connection.request("POST", "/v1/detect", image, headers)
            reply = self._connection.getresponse()
            data = reply.read()
            latency_ms = 1e3 * (time.perf_counter() - started_s)
            timing = reply.headers.get("Server-Timing", "")
            stages_ms = {name: float(value) for name, value in _STAGE.findall(timing)}
            body = json.loads(data)
            _ = float(body["expected_ap"]) if reply.status == 200 else str(body["type"])
        return SweepReply(reply.status, latency_ms, body, stages_ms)

    @contextmanager
    def _understood(self, path: str) -> Iterator[None]:
        """Turn what comes of another server, or of none, into a StudyError."""
        try:
            yield
        except NO_REPLY as error:
            raise StudyError(f"{self._url} cannot be reached: {error}") from error
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            answer = f"something else ({error!r})"
            raise StudyError(other_server(self._url, path, answer)) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def sweep(
    client: SweepClient,
    images: Sequence[bytes],
    budgets_ms: Sequence[float],
    num_requests: int,
    seed: int,
) -> list[SweptBudget]:
    """Send ``num_requests`` of each budget, one at a time, and return the replies by budget."""
    order = random.Random(seed)
    swept = [SweptBudget(budget_ms) for budget_ms in budgets_ms]
    for number in range(num_requests):
        shuffled = list(swept)
        order.shuffle(shuffled)
        for budget in shuffled:
            budget.answers.append(client.detect(images[number % len(images)], budget.budget_ms))
    return swept


def min_budget_ms(client: SweepClient, image: bytes) -> float:
    """Return the smallest budget in milliseconds that the server says it accepts for this image.

    The server says so in its reply to a budget that it refuses. Raises StudyError if it does not.
    """
    answer = client.detect(image, 0.1)
    smallest = answer.body.get("min_budget_ms")
    if answer.status != 422 or not isinstance(smallest, int | float):
        raise StudyError(f"expected 422 for 0.1 ms, not {answer.status}: {answer.body!s:.200}")
    return float(smallest)


def inversions(budgets: Sequence[SweptBudget]) -> list[tuple[float, float]]:
    """Return the pairs of neighbouring budgets of which the larger has the smaller median AP.

    That is the AP which is expected of the answers. Both budgets are in milliseconds.
    """
    medians = [
        (budget.budget_ms, statistics.median(budget.expected_aps))
        for budget in budgets
        if budget.expected_aps
    ]
    return [
        (small[0], large[0]) for small, large in itertools.pairwise(medians) if large[1] < small[1]
    ]


def swept_table(budgets: Sequence[SweptBudget]) -> str:
    """Return a table of the sweep, one line a budget."""
    lines = ["budget ms  accepted  in time         AP p10/p50/p90  latency p50/p99 ms  not 200"]
    for budget in budgets:
        accepted, aps = budget.accepted, budget.expected_aps
        share = f"{len(budget.in_time) / len(accepted):7.1%}" if accepted else "      -"
        ap = "/".join(f"{quantile(aps, q):.3f}" for q in (0.1, 0.5, 0.9)) if aps else "-"
        latencies = [a.latency_ms for a in budget.answers if a.status == 200]
        latency = "-"
        if latencies:
            latency = f"{quantile(latencies, 0.5):8.1f} / {quantile(latencies, 0.99):.1f}"
        other = Counter(
            answer.body.get("reason") or answer.body.get("type", "").rpartition(":")[2]
            for answer in budget.answers
            if answer.status != 200
        )
        reasons = ", ".join(f"{name} {count}" for name, count in other.most_common())
        lines.append(
            f"{budget.budget_ms:9.1f} {len(accepted):9} {share:>8} {ap:>22} {latency:>19}  "
            f"{reasons}"
        )
    return "\n".join(lines)


def overhead(budgets: Sequence[SweptBudget]) -> str:
    """Return as text where the time goes that the engine does not take: medians in ms.

    They are over all answers.
    """
    answers = [a for budget in budgets for a in budget.answers if a.status == 200 and a.stages_ms]
    if not answers:
        return "no answers"
    known = ("read", "decode", "queue")
    parts: dict[str, list[float]] = {name: [a.stages_ms[name] for a in answers] for name in known}
    parts["reply"] = [
        a.stages_ms["total"] - a.stages_ms["engine"] - sum(a.stages_ms[n] for n in known)
        for a in answers
    ]
    parts["client and sockets"] = [a.latency_ms - a.stages_ms["total"] for a in answers]
    gateway = [a.stages_ms["total"] - a.stages_ms["engine"] for a in answers]
    whole = [a.latency_ms - a.stages_ms["engine"] for a in answers]
    lines = [
        f"gateway without engine {Spread.of(gateway).text(2)} ms (median; p10 .. p90), "
        f"as the client sees it {Spread.of(whole).text(2)} ms, of which"
    ]
    lines.extend(f"  {name:20} {Spread.of(values).text(2)}" for name, values in parts.items())
    return "\n".join(lines)
