"""The simulator's results for fixed seeds, to the last digit: all policies on two ladders.

A change of the scheduler, of the engine's state or of the random numbers shows here. Where it is
meant, ``python -m tests.loadtest.simulation.test_recorded`` records anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.policies.named import POLICIES
from loadtest.simulation import study
from loadtest.simulation.simulator import SimulatedOutcome, Stalls
from loadtest.simulation.study import Conditions, Point, run_policy
from serving.core.request import Request

RECORD = Path(__file__).parent / "recorded.json"
PROFILES = ("gpu-like", "wide")
SETTINGS = (("poisson", 0.7), ("gamma:4", 1.4))
CONDITIONS = Conditions(
    budgets="1.2x,2x,4x",
    num_requests=400,
    jitter=0.05,
    stalls=Stalls(0.5, 0.03),
    with_oracle=False,
)
RECORDED = {tuple(row[:4]): row[4:] for row in json.loads(RECORD.read_text())}


def test_everything_is_recorded():
    expected = {(p, *s, name) for p in PROFILES for s in SETTINGS for name in POLICIES}
    assert set(RECORDED) == expected


@pytest.mark.parametrize("key", sorted(RECORDED), ids=lambda key: "-".join(map(str, key)))
def test_results_are_as_recorded(key: tuple[str, str, float, str]):
    with pytest.MonkeyPatch.context() as patch:
        assert simulated(patch, *key) == RECORDED[key]


def varied(requests: Sequence[Request]) -> list[Request]:
    """The same arrivals, some of which stream, must go deep, or may not go deep."""
    return [
        replace(
            request,
            streaming=request.id % 5 == 0,
            min_depth=2 if request.id % 7 == 0 else 1,
            max_depth=3 if request.id % 11 == 0 else request.max_depth,
        )
        for request in requests
    ]


def simulated(
    patch: pytest.MonkeyPatch, profile: str, arrivals: str, load: float, policy: str
) -> list[object]:
    """In time, late, decisions, accuracy summed, and a digest of every outcome in order."""
    outcomes: list[SimulatedOutcome] = []
    draw, measure = study.draw_requests, study._measure

    def measure_and_keep(point, name, conditions, seed, ended, *counts):
        outcomes.extend(ended)
        return measure(point, name, conditions, seed, ended, *counts)

    patch.setattr(study, "draw_requests", lambda *args: varied(draw(*args)))
    patch.setattr(study, "_measure", measure_and_keep)
    result = run_policy(Point(profile, arrivals, load), policy, CONDITIONS, seed=0)
    text = "\n".join(f"{o.request.id} {o.finished_s!r} {o.depth} {o.reason}" for o in outcomes)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    counts = (result.num_in_time, result.num_late, result.num_decisions, result.sum_ap)
    return [*counts, digest]


def record() -> None:
    """Write what the simulator makes of every setting now."""
    rows = []
    for profile in PROFILES:
        for arrivals, load in SETTINGS:
            for policy in POLICIES:
                with pytest.MonkeyPatch.context() as patch:
                    key = (profile, arrivals, load, policy)
                    rows.append([*key, *simulated(patch, *key)])
    RECORD.write_text("[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]\n")


if __name__ == "__main__":
    record()
