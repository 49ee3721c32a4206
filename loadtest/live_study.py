"""Servers against each other on this machine, under the same requests: ``punctual study live``.

    reference    what loads are shares of and budgets multiples of, measured once
    loads        round by round, every point, every system in a new order
    recovery     a burst far above capacity, and what comes after it

Beside each run of Punctual stands what the simulator says of the very same requests. The report is
written after every round.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from loadtest.arrivals import parse_arrivals
from loadtest.live_reference import find_reference
from loadtest.live_report import BurstRun, LiveRun, Reference, Report
from loadtest.live_simulation import simulate_schedule
from loadtest.live_subject import BURST_LOAD, SEEDS_PER_ROUND, Settings, Subject
from loadtest.live_systems import (
    POLICIES,
    SHALLOWEST,
    SHIPPED,
    SLACKFIT,
    System,
    gateway_system,
    measure,
    peer_system,
)
from loadtest.live_tables import write
from loadtest.load import LoadSettings
from loadtest.peer_servers import PEERS, PeerSettings
from loadtest.recovery import recovery
from loadtest.rows import Outcome, Row
from loadtest.simulation import Timeline
from loadtest.target import Target
from loadtest.triton_study import machine

BURST_SYSTEMS = (SHIPPED, SHALLOWEST, SLACKFIT)
BIN_S = 0.5
"""Of a burst's timeline."""

Say = Callable[[str], None]


def sent_to(system: System, load: LoadSettings) -> LoadSettings:
    """``load`` for this system."""
    return replace(load, url=system.server.url, target=Target(system.name))


def plan(
    points: Sequence[tuple[str, float]], names: Sequence[str], rounds: int, seed: int
) -> Iterator[list[tuple[str, float, int, tuple[str, ...]]]]:
    """Round by round: arrivals, load, seed of the requests, and the order of the systems. Points
    and systems come in a new order each time; the requests are the same for all systems."""
    rng = np.random.default_rng(seed)
    for number in range(rounds):
        yield [
            (
                *points[index],
                seed + SEEDS_PER_ROUND * number + int(index),
                tuple(names[i] for i in rng.permutation(len(names))),
            )
            for index in rng.permutation(len(points))
        ]


# -- the parts -----------------------------------------------------------------------------------


def measure_loads(
    subject: Subject, systems: Mapping[str, System], report: Report, path: Path, say: Say
) -> None:
    """Fill ``report.runs``. Raises StudyError."""
    settings, reference = subject.settings, report.reference
    order = plan(settings.points, tuple(systems), settings.rounds, settings.seed)
    for number, points in enumerate(order):
        for arrivals, load, seed, names in points:
            rate_hz = load * reference.capacity_hz
            twins = subject.twin(reference, rate_hz).steps()
            common = replace(subject.load(reference, arrivals, rate_hz), seed=seed)
            say(f"loads: round {number + 1} of {settings.rounds}, {arrivals} at {load:g}")
            for name in names:
                system = systems[name]
                measured = measure(system, sent_to(system, common))
                simulated = {}
                if system.policy is not None:
                    schedule = measured.result.schedule
                    simulated = {
                        step: simulate_schedule(schedule, system.policy, twin, seed)
                        for step, twin in twins.items()
                    }
                report.runs.append(
                    LiveRun(
                        name, arrivals, load, number, measured.summary, measured.account, simulated
                    )
                )
        write(report, path)


def measure_recovery(
    subject: Subject, systems: Mapping[str, System], report: Report, path: Path, say: Say
) -> None:
    """Fill ``report.bursts``. Raises StudyError."""
    settings, reference = subject.settings, report.reference
    duration_s = sum(settings.burst_s)
    burst_s = (settings.burst_s[0], settings.burst_s[0] + settings.burst_s[1])
    rate_hz = BURST_LOAD * reference.capacity_hz
    common = replace(subject.load(reference, settings.burst, rate_hz), duration_s=duration_s)
    for name in BURST_SYSTEMS:
        system = systems[name]
        say(f"recovery: {name}, {duration_s:g} s")
        measured = measure(system, sent_to(system, common))
        timeline = timeline_of(measured.result.rows, duration_s)
        report.bursts.append(
            BurstRun(
                system=name,
                arrivals=settings.burst,
                load=BURST_LOAD,
                burst_s=burst_s,
                duration_s=duration_s,
                summary=measured.summary,
                account=measured.account,
                timeline=timeline,
                recovery=recovery(timeline, burst_s, duration_s, 1),
            )
        )
    write(report, path)


def timeline_of(rows: Sequence[Row], duration_s: float) -> Timeline:
    """In bins of about ``BIN_S``, by the scheduled instant; answers that state no depth count as
    depth 0."""
    num_bins = max(1, round(duration_s / BIN_S))
    arrived, in_time, depths = ([0] * num_bins for _ in range(3))
    for row in rows:
        place = min(num_bins - 1, int(row.scheduled_s / duration_s * num_bins))
        arrived[place] += 1
        if row.outcome is Outcome.IN_TIME:
            in_time[place] += 1
            depths[place] += row.depth or 0
    return Timeline(tuple(arrived), tuple(in_time), tuple(depths))


PARTS = {"loads": measure_loads, "recovery": measure_recovery}


def study(settings: Settings, parts: Sequence[str], out: Path, say: Say) -> tuple[Report, Path]:
    """Measure ``parts``, in the order of ``PARTS``, and write ``out``/live-DATE.json and .md, or
    live-PART-DATE where not all were asked for; that path comes back without its suffix. Raises
    StudyError, and ValueError for settings that make no sense."""
    settings.check()
    subject = Subject.find(settings)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    load_average = os.getloadavg()[0]
    wanted = [name for name in PARTS if name in parts]
    stem = "-".join(("live", *(wanted if len(wanted) < len(PARTS) else ()), date))
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as logs, contextlib.ExitStack() as stack:
        say("starting gateways")
        systems = start_gateways(subject, Path(logs), stack)
        reference = find_reference(subject, systems, say)
        if "loads" in wanted:
            say("starting peers")
            systems |= start_peers(subject, reference, Path(logs), stack)
        report = Report(
            machine=machine(),
            load_average=load_average,
            versions=versions(settings.runtime),
            date=date,
            model=subject.catalog.name,
            model_digest=subject.catalog.digest,
            settings=described(subject),
            reference=reference,
            has_peers=settings.peers_python is not None,
        )
        for name in wanted:
            PARTS[name](subject, systems, report, out / stem, say)
    return report, out / stem


def start_gateways(subject: Subject, logs: Path, stack: contextlib.ExitStack) -> dict[str, System]:
    """One for each policy, until ``stack`` ends. Raises StudyError."""
    settings = subject.settings
    given = {
        "model_repository": settings.model_repository.resolve(),
        "model": subject.catalog.name,
        "runtime": settings.runtime,
    }
    systems = {}
    for policy in POLICIES:
        log = logs / f"{policy.replace(':', '-')}.log"
        systems[policy] = stack.enter_context(
            gateway_system(policy, given, subject.pictures[0], log)
        )
    return systems


def start_peers(
    subject: Subject, reference: Reference, logs: Path, stack: contextlib.ExitStack
) -> dict[str, System]:
    """Each kind at the shallowest and at the deepest exit, until ``stack`` ends; none without an
    interpreter for them. Raises StudyError."""
    python = subject.settings.peers_python
    if python is None:
        return {}
    told = PeerSettings(
        subject.settings.model_repository, subject.catalog.name, reference.peer_timeout_s
    )
    systems = {}
    for label, depth in (("1", 1), ("max", subject.catalog.num_exits)):
        for kind in PEERS:
            log = logs / f"{kind}-{label}.log"
            system = stack.enter_context(
                peer_system(kind, depth, label, python, told, subject.pictures[0], log)
            )
            systems[system.name] = system
    return systems


def described(subject: Subject) -> dict[str, object]:
    """The settings that the report repeats."""
    settings = subject.settings
    digests = {
        name: digest
        for name in settings.arrivals
        if (digest := parse_arrivals(name).digest) is not None
    }
    return {
        "rounds": settings.rounds,
        "seconds a run": settings.seconds,
        "budgets": settings.budgets,
        "images": f"{len(subject.pictures)} of {settings.data.name}",
        "seed": settings.seed,
        **{f"digest of {name}": digest for name, digest in digests.items()},
    }


def versions(runtime: str) -> dict[str, str]:
    """Of everything whose figures these are."""
    return {
        "punctual": version("punctual"),
        "Python": platform.python_version(),
        runtime: version(runtime),
    }
