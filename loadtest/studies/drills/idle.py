"""``punctual study idle``: a drill in which a server must keep what it says while it is idle.

Right after it is ready, it is asked what budget would do, by a request that it must refuse, and
then for answers with a little more than that: one request at a time, round after round. Neighbours
may keep the machine busy meanwhile. Then budgets from small to ample show how depth follows.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.load.sweep import SweepClient, SweptBudget, min_budget_ms, sweep
from loadtest.servers.processes import gateway
from loadtest.studies.drills.report import DepthAtBudget, IdleRound
from loadtest.workload.images import AnnotatedImage

REFUSED_SHARE = 0.5
"""Share of the smallest budget that works with which the budgets of the second part begin."""
AMPLE_RATIO = 2.0
"""Ratio to what the deepest exit is said to need with which they end."""


@dataclass(frozen=True)
class IdleDrillSettings:
    """The settings of the drill."""

    model_repository: Path
    runtime: str
    images: Sequence[AnnotatedImage]
    num_rounds: int
    num_requests: int
    """Number of requests in each round, and at each budget of the second part."""
    budget_ratio: float
    """Ratio of the budgets of the rounds to what a refusal has suggested."""
    num_budgets: int
    num_neighbours: int
    """Number of processes beside the server that take all the processor time they get."""
    pause_s: float
    """Most seconds between an answer and the next request; they are drawn evenly up to it."""
    seed: int


def run(
    settings: IdleDrillSettings, log: Path, say: Callable[[str], None]
) -> tuple[list[IdleRound], list[DepthAtBudget]]:
    """Run the drill; returns its rounds, and the depth by budget. Raises StudyError."""
    server = {"model_repository": settings.model_repository, "runtime": settings.runtime}
    images, pauses = [image.data for image in settings.images], random.Random(settings.seed)
    with busy_neighbours(settings.num_neighbours), gateway("idle", server, log) as url:
        client = SweepClient(url)
        rounds = []
        for number in range(1, settings.num_rounds + 1):
            rounds.append(try_suggestion(client, images, settings, pauses))
            say(f"round {number}: {rounds[-1].answered} of {settings.num_requests}")
        low_ms = REFUSED_SHARE * min_budget_ms(client, images[0])
        high_ms = AMPLE_RATIO * client.models()["exits"][-1]["min_budget_ms"]
        step_ms = (high_ms - low_ms) / max(1, settings.num_budgets - 1)
        budgets_ms = [low_ms + step_ms * i for i in range(settings.num_budgets)]
        swept = sweep(client, images, budgets_ms, settings.num_requests, settings.seed)
        client.close()
    return rounds, [_depth_at(budget) for budget in swept]


def try_suggestion(
    client: SweepClient,
    images: Sequence[bytes],
    settings: IdleDrillSettings,
    pauses: random.Random,
) -> IdleRound:
    """Ask what budget would do, and then for answers with a little more than that."""
    suggested_ms = min_budget_ms(client, images[0])
    budget = SweptBudget(settings.budget_ratio * suggested_ms)
    for number in range(settings.num_requests):
        budget.answers.append(client.detect(images[number % len(images)], budget.budget_ms))
        time.sleep(pauses.uniform(0.0, settings.pause_s))
    latencies_ms = sorted(reply.latency_ms for reply in budget.answers if reply.status == 200)
    return IdleRound(
        suggested_ms=suggested_ms,
        budget_ms=budget.budget_ms,
        answered=len(latencies_ms),
        refused=_refusals(budget),
        median_ms=latencies_ms[len(latencies_ms) // 2] if latencies_ms else None,
    )


def _depth_at(budget: SweptBudget) -> DepthAtBudget:
    answers = [reply.body for reply in budget.answers if reply.status == 200]
    answers.sort(key=lambda body: float(body["expected_ap"]))
    at = [answers[int(q * len(answers))] for q in (0.1, 0.5, 0.9)] if answers else []
    points = tuple(str(body.get("operating_point") or body["exit_depth"]) for body in at)
    return DepthAtBudget(budget.budget_ms, len(answers), points, _refusals(budget))


def _refusals(budget: SweptBudget) -> dict[str, int]:
    """Return how often each problem was the reply: its status, and what it says it is."""
    return dict(
        Counter(
            f"{reply.status} {reply.body.get('reason') or _slug(reply.body)}"
            for reply in budget.answers
            if reply.status != 200
        )
    )


def _slug(problem: dict[str, object]) -> str:
    return str(problem.get("type", "")).rpartition(":")[2]


@contextlib.contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Run ``count`` processes that never rest, for as long as the context lasts."""
    command = (sys.executable, "-c", "while True: pass")
    neighbours = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
