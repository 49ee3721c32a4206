"""``punctual study live``: servers against each other on this machine, under the same requests.

    reference    the capacity that loads are shares of and the time that budgets are multiples of,
                 measured once; and which fixed operating points are worth a server, by simulation
    loads        round by round, every point, every system in a new order
    recovery     a burst far above capacity, and what comes after it

Every round starts its servers anew, in a new order: what a process got of the machine when it was
started, such as its memory, is then part of the spread and not of one system's figures.

Beside each run of Punctual stands what the simulator says of the very same requests. The report is
written after every round.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from loadtest.load.open_loop import LoadSettings
from loadtest.load.outcomes import Outcome, RequestOutcome
from loadtest.load.target import Target
from loadtest.policies.named import FIXED
from loadtest.servers.peers import PEERS, PeerPoint, PeerSettings
from loadtest.simulation.study import Timeline
from loadtest.studies.live.candidates import find_candidates
from loadtest.studies.live.reference import find_reference
from loadtest.studies.live.report import BurstRun, LiveReport, LiveRun, Reference, worth_of
from loadtest.studies.live.simulation import simulate_schedule
from loadtest.studies.live.subject import (
    BURST_LOAD,
    SEEDS_PER_ROUND,
    LiveStudySettings,
    LiveSubject,
)
from loadtest.studies.live.systems import (
    POLICIES,
    SHIPPED,
    SLACKFIT,
    System,
    gateway_system,
    measure,
    peer_system,
)
from loadtest.studies.live.tables import write
from loadtest.workload.arrivals import parse_arrivals
from reporting.machine import machine

BIN_S = 0.5
"""Seconds of a bin of a burst's timeline, about."""

Say = Callable[[str], None]
Starters = Mapping[str, Callable[[], AbstractContextManager[System]]]
"""Name of a system -> how to start it, paused, until the context ends. Raises StudyError."""


class LivePoint(NamedTuple):
    """One point of a study, arrivals and load, in one round."""

    arrivals: str
    load: float
    round: int
    seed: int
    """Seed of the requests, which are the same for all systems."""
    names: tuple[str, ...]
    """Names of the systems, in the order in which they take their turns."""


def sent_to(system: System, load: LoadSettings) -> LoadSettings:
    """Return the settings of ``load`` with this system as its target."""
    return replace(load, url=system.server.url, target=Target(system.name))


def plan(
    loads: Sequence[tuple[str, float]], names: Sequence[str], rounds: int, seed: int
) -> Iterator[tuple[tuple[str, ...], list[LivePoint]]]:
    """Yield the order in which systems start and the points of each round.

    There is one point for each arrivals and load. Points and systems come in a new order each time.
    """
    rng = np.random.default_rng(seed)

    def shuffled() -> tuple[str, ...]:
        return tuple(names[i] for i in rng.permutation(len(names)))

    for number in range(rounds):
        first_seed = seed + SEEDS_PER_ROUND * number
        yield (
            shuffled(),
            [
                LivePoint(*loads[index], number, first_seed + index, shuffled())
                for index in map(int, rng.permutation(len(loads)))
            ],
        )


@contextlib.contextmanager
def started(starters: Starters, names: Sequence[str]) -> Iterator[dict[str, System]]:
    """Start these systems in this order, until the context ends. Raises StudyError."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(starters[name]()) for name in names}


# -- the parts -----------------------------------------------------------------------------------


def measure_loads(
    subject: LiveSubject, starters: Starters, report: LiveReport, path: Path, say: Say
) -> None:
    """Measure the compared systems at every load, and fill ``report.runs``. Raises StudyError."""
    settings = subject.settings
    order = plan(settings.points, report.compared, settings.rounds, settings.seed)
    for number, (starts, points) in enumerate(order, start=1):
        say(f"loads: round {number} of {settings.rounds}, starting {len(starts)} servers")
        with started(starters, starts) as systems:
            for point in points:
                at = f"{point.arrivals} at {point.load:g}"
                say(f"loads: round {number} of {settings.rounds}, {at}")
                _measure_point(subject, systems, report, point)
        write(report, path)


def _measure_point(
    subject: LiveSubject, systems: Mapping[str, System], report: LiveReport, point: LivePoint
) -> None:
    """Measure every system in turn, and simulate the same requests."""
    reference = report.reference
    rate_hz = point.load * reference.load_hz
    replays = subject.replay_settings(reference, rate_hz).steps()
    common = subject.load(reference, point.arrivals, rate_hz, point.seed)
    for name in point.names:
        system = systems[name]
        measured = measure(system, sent_to(system, common))
        simulated = {}
        if system.policy is not None:
            schedule = measured.result.schedule
            simulated = {
                step: simulate_schedule(schedule, system.policy, replay, point.seed)
                for step, replay in replays.items()
            }
        report.runs.append(
            LiveRun(
                name,
                point.arrivals,
                point.load,
                point.round,
                measured.summary,
                measured.account,
                simulated,
                worth_of(measured.result.outcomes),
            )
        )


def measure_recovery(
    subject: LiveSubject, starters: Starters, report: LiveReport, path: Path, say: Say
) -> None:
    """Measure some systems through a burst, and fill ``report.bursts``. Raises StudyError."""
    settings, reference = subject.settings, report.reference
    duration_s = sum(settings.burst_s)
    burst_s = (settings.burst_s[0], settings.burst_s[0] + settings.burst_s[1])
    names = (SHIPPED, fixed(subject.quickest), SLACKFIT)
    rate_hz = BURST_LOAD * reference.capacity_hz
    order = plan([(settings.burst, BURST_LOAD)], names, settings.rounds, settings.seed)
    for _, (point,) in order:
        burst = subject.load(reference, settings.burst, rate_hz, point.seed)
        common = replace(burst, duration_s=duration_s)
        for name in point.names:
            number = point.round + 1
            say(f"recovery: round {number} of {settings.rounds}, {name}, {duration_s:g} s")
            with started(starters, (name,)) as systems:
                measured = measure(systems[name], sent_to(systems[name], common))
            report.bursts.append(
                BurstRun(
                    system=name,
                    arrivals=point.arrivals,
                    load=point.load,
                    round=point.round,
                    burst_s=burst_s,
                    duration_s=duration_s,
                    summary=measured.summary,
                    account=measured.account,
                    timeline=timeline_of(measured.result.outcomes, duration_s),
                )
            )
        write(report, path)


def timeline_of(outcomes: Sequence[RequestOutcome], duration_s: float) -> Timeline:
    """Count outcomes in bins of about ``BIN_S``, by the scheduled instant.

    Answers that state no depth count as depth 0.
    """
    num_bins = max(1, round(duration_s / BIN_S))
    arrived, in_time, depths = ([0] * num_bins for _ in range(3))
    for request in outcomes:
        place = min(num_bins - 1, int(request.scheduled_s / duration_s * num_bins))
        arrived[place] += 1
        if request.outcome is Outcome.IN_TIME:
            in_time[place] += 1
            depths[place] += request.depth or 0
    return Timeline(tuple(arrived), tuple(in_time), tuple(depths))


PARTS = {"loads": measure_loads, "recovery": measure_recovery}


def study(
    settings: LiveStudySettings, parts: Sequence[str], out: Path, say: Say
) -> tuple[LiveReport, Path]:
    """Measure ``parts``, in the order of ``PARTS``, and write the report as JSON and Markdown.

    The files are ``out``/live-DATE.json and .md, or live-PART-DATE where not all parts were asked
    for; that path is returned without its suffix, after the report. Raises StudyError, and
    ValueError for settings that make no sense.
    """
    settings.check()
    subject = LiveSubject.find(settings)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    load_average = os.getloadavg()[0]
    wanted = [name for name in PARTS if name in parts]
    stem = "-".join(("live", *(wanted if len(wanted) < len(PARTS) else ()), date))
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as logs:
        starters = gateways(subject, Path(logs))
        quickest, best = fixed(subject.quickest), fixed(subject.best)
        say("starting gateways")
        with started(starters, tuple(dict.fromkeys((quickest, best)))) as systems:
            reference = find_reference(subject, systems[quickest], systems[best], say)
        labels = find_candidates(subject, reference)
        say(f"fixed operating points: {', '.join(labels)}")
        others = peers(subject, reference, labels, Path(logs))
        starters |= others
        report = LiveReport(
            machine=machine(),
            load_average=load_average,
            versions=versions(settings.runtime),
            date=date,
            model=subject.family.name,
            model_digest=subject.family.entries[0].digest,
            settings=described(subject, labels),
            reference=reference,
            has_peers=settings.peers_python is not None,
            compared=(*POLICIES, *map(fixed, labels), *others),
        )
        for name in wanted:
            PARTS[name](subject, starters, report, out / stem, say)
    return report, out / stem


def fixed(label: str) -> str:
    """Return the name of the policy of the operating point called ``label``."""
    return f"{FIXED}:{label}"


def gateways(
    subject: LiveSubject, logs: Path
) -> dict[str, Callable[[], AbstractContextManager[System]]]:
    """Return how to start a gateway for each policy and each fixed operating point."""
    settings, ladder = subject.settings, subject.family.ladder
    given = {
        "model_repository": settings.model_repository.resolve(),
        "model": subject.family.name,
        "runtime": settings.runtime,
    }
    image = subject.images[0]
    return {
        policy: partial(gateway_system, policy, given, image, logs / f"{_file_name(policy)}.log")
        for policy in (*POLICIES, *map(fixed, map(ladder.label, ladder.points)))
    }


def _file_name(system: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", system)


def peers(
    subject: LiveSubject, reference: Reference, labels: Sequence[str], logs: Path
) -> dict[str, Callable[[], AbstractContextManager[System]]]:
    """Return how to start each kind of peer at the operating points called ``labels``.

    There are none without an interpreter for them.
    """
    python = subject.settings.peers_python
    if python is None:
        return {}
    told = PeerSettings(
        subject.settings.model_repository, subject.family.name, reference.peer_timeout_s
    )
    return {
        f"{kind}:{label}": partial(
            peer_system,
            f"{kind}:{label}",
            kind,
            PeerPoint(subject.family.ladder.sizes[number], depth),
            python,
            told,
            subject.images[0],
            logs / f"{_file_name(f'{kind}-{label}')}.log",
        )
        for label in labels
        for number, depth in (subject.family.ladder.find(label),)
        for kind in PEERS
    }


def described(subject: LiveSubject, labels: Sequence[str]) -> dict[str, object]:
    """Return the settings that the report repeats.

    ``labels`` are the fixed operating points that are compared.
    """
    settings = subject.settings
    unit = "requests/s" if settings.rates_hz else "loads"
    loads = settings.rates_hz or settings.loads
    how = "named" if settings.fixed else "simulated"
    digests = {
        name: digest
        for name in settings.arrivals
        if (digest := parse_arrivals(name).digest) is not None
    }
    return {
        "rounds": settings.rounds,
        "seconds a run": settings.seconds,
        unit: " ".join(f"{load:g}" for load in loads),
        "budgets": settings.budgets,
        "fixed operating points": f"{' '.join(labels)} ({how})",
        "images": f"{len(subject.images)} of {settings.data.name}",
        "seed": settings.seed,
        **{f"digest of {name}": digest for name, digest in digests.items()},
    }


def versions(runtime: str) -> dict[str, str]:
    """Return name -> version of everything whose figures these are."""
    return {
        "punctual": version("punctual"),
        "Python": platform.python_version(),
        runtime: version(runtime),
    }
