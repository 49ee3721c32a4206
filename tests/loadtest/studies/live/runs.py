"""A live study that has ended, made up."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from loadtest.load.accounting import account
from loadtest.load.outcomes import Outcome
from loadtest.load.summary import Summary, summarise
from loadtest.simulation.profiles import load_profile
from loadtest.simulation.study import Timeline
from loadtest.studies.live.report import BurstRun, LiveReport, LiveRun, Reference
from loadtest.studies.live.simulation import STEPS, Simulated
from tests.loadtest.load.runs import answer, failure, result

REFERENCE = Reference(
    capacity_hz=100.0,
    load_hz=100.0,
    capacities_hz=(90.0, 100.0, 105.0),
    engine_capacity_hz=150.0,
    full_depth_s=0.02,
    full_depths_s=(0.019, 0.02, 0.022),
    engine_full_depth_s=0.015,
    reserve_s=0.004,
    peer_timeout_s=0.04,
    profile=load_profile("cpu-lite").latency,
)
POINTS = (("poisson", 0.3), ("poisson", 0.9), ("trace:azure_conv", 0.3))
IN_TIME = {"fixed:1": (8, 6), "deadline": (9, 6), "litserve:1": (7, 7)}
"""System -> how many of ten are answered in time, by round."""


def summary(in_time: int, depth: int) -> Summary:
    """Of ten requests, the others of which are refused."""
    rows = [answer(0.1 * i, 0.01, depth=depth) for i in range(in_time)]
    rows += [failure(0.1 * i, Outcome.REFUSED, "rejected-overload") for i in range(in_time, 10)]
    return summarise(result(rows))


def run(system: str, arrivals: str, load: float, number: int, in_time: int) -> LiveRun:
    found = summary(in_time, 2 if system == "deadline" else 1)
    is_gateway = system != "litserve:1"
    after = Counter(answered=in_time + 5, rejected=10 - in_time) if is_gateway else None
    simulated = {step: Simulated(1.0, 0.25, 1.5) for step in STEPS} if is_gateway else {}
    counted = account(found, Counter() if is_gateway else None, after, 5)
    # Of ten requests a tenth of the run each, those in time first.
    worth = tuple((0.2 if system == "deadline" else 0.1) * (i < in_time) for i in range(10))
    return LiveRun(system, arrivals, load, number, found, counted, simulated, worth)


IN_BURST = {"deadline": (20, 30), "fixed:1": (25, 20)}
"""System -> how many of fifty a second are answered in time in a burst, by round."""


def burst(system: str, number: int) -> BurstRun:
    """20 s, the burst from 4 to 8, in bins of one; as before after it."""
    arrived = (10,) * 4 + (50,) * 4 + (10,) * 12
    in_time = (9,) * 4 + (IN_BURST[system][number],) * 4 + (9,) * 12
    timeline = Timeline(arrived, in_time, tuple(2 * count for count in in_time))
    found = summary(9, 2)
    after = Counter(answered=14, rejected=1)
    return BurstRun(
        system=system,
        arrivals="burst:4:4:5",
        load=0.5,
        round=number,
        burst_s=(4.0, 8.0),
        duration_s=20.0,
        summary=found,
        account=account(found, Counter(), after, 5),
        timeline=timeline,
    )


def report() -> LiveReport:
    return LiveReport(
        machine="some machine",
        load_average=0.1,
        versions={"punctual": "1"},
        date="2026-01-02",
        model="cells",
        model_digest="0123456789abcdef",
        settings={"rounds": 2},
        reference=REFERENCE,
        has_peers=True,
        compared=tuple(IN_TIME),
        runs=[
            run(system, arrivals, load, number, in_time)
            for number in range(2)
            for arrivals, load in POINTS
            for system, by_round in IN_TIME.items()
            for in_time in (by_round[number],)
        ],
        bursts=[burst(system, number) for number in range(2) for system in IN_BURST],
    )


def lost(found: LiveRun) -> LiveRun:
    """The same, where the server has counted one more."""
    server = found.account.server
    assert server is not None
    server = {**server, "other": server["other"] + 1}
    return replace(found, account=replace(found.account, server=server))
