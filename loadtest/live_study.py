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
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from loadtest.arrivals import parse_arrivals
from loadtest.budgets import parse_budgets
from loadtest.callers import ask_again_and_again
from loadtest.live_report import BurstRun, LiveRun, Reference, Report
from loadtest.live_simulation import Twin, simulate_schedule
from loadtest.live_systems import (
    DEEPEST,
    GRACE_S,
    POLICIES,
    SHALLOWEST,
    SHIPPED,
    SLACKFIT,
    WARM_UP,
    System,
    gateway_system,
    measure,
    peer_system,
)
from loadtest.live_tables import write
from loadtest.load import LoadSettings
from loadtest.peer_servers import PEERS, PeerSettings
from loadtest.pictures import Picture, read_data
from loadtest.processes import StudyError
from loadtest.profiles import ModelProfile
from loadtest.recovery import recovery
from loadtest.rows import Outcome, Row
from loadtest.segment_times import segments_now
from loadtest.simulation import Timeline
from loadtest.target import Target, describe_server
from loadtest.triton_study import find_folder, machine, read_catalog
from serving.core.catalog import Catalog
from serving.core.latency import quantile

CALLERS = 8
"""At once, to see what a server can do at most: two of its largest batches."""
CAPACITY_WINDOWS = 3
WINDOW_S = 4.0
"""Of each of them, and of the caller who finds the server idle."""
BURST_SYSTEMS = (SHIPPED, SHALLOWEST, SLACKFIT)
BURST_LOAD = 0.5
"""Before and after it."""
BURST_OF_CAPACITY = 5.0
"""In it."""
BIN_S = 0.5
"""Of a burst's timeline."""
_SEEDS_PER_ROUND = 1000

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What to measure and how long."""

    model_repository: Path
    model: str | None
    """None: the only one there."""
    runtime: str
    data: Path
    """Annotated images, in Pascal VOC's layout or COCO's."""
    split: str
    peers_python: Path | None
    """An interpreter that has the peers' frameworks; without it there are no peers."""
    loads: tuple[float, ...]
    """Shares of the server's depth-1 capacity."""
    arrivals: tuple[str, ...]
    budgets: str
    rounds: int
    seconds: float
    """Of one run."""
    burst_s: tuple[float, float, float]
    """Before the burst, in it and after it."""
    segment_rounds: int
    """In which segments are timed for the simulator."""
    seed: int

    def check(self) -> None:
        """Raises ValueError, with a sentence, for what cannot be meant."""
        parse_budgets(self.budgets)
        for name in self.arrivals:
            parse_arrivals(name)
        if not all(0 < load < float("inf") for load in self.loads):
            raise ValueError("loads must be positive and finite")
        if len(self.points) > _SEEDS_PER_ROUND:
            raise ValueError(f"more than {_SEEDS_PER_ROUND} points are too many")

    @property
    def points(self) -> list[tuple[str, float]]:
        """Arrivals and load."""
        return [(name, load) for name in self.arrivals for load in self.loads]

    @property
    def burst(self) -> str:
        """As ``parse_arrivals`` takes it."""
        before_s, length_s, _ = self.burst_s
        return f"burst:{before_s:g}:{length_s:g}:{BURST_OF_CAPACITY / BURST_LOAD:g}"


@dataclass(frozen=True)
class Subject:
    """The model under study, and what it is asked about."""

    settings: Settings
    folder: Path
    catalog: Catalog
    pictures: tuple[Picture, ...]

    @classmethod
    def find(cls, settings: Settings) -> Subject:
        """Raises StudyError, ValueError."""
        folder = find_folder(settings.model_repository, settings.model)
        pictures = read_data(settings.data, settings.split)
        return cls(settings, folder, read_catalog(folder), pictures)

    def load(self, reference: Reference, arrivals: str, rate_hz: float) -> LoadSettings:
        """A run of any system, but for where that is; of the study's usual length."""
        exits = self.catalog.exits
        return LoadSettings(
            url="",
            pictures=self.pictures,
            arrivals=parse_arrivals(arrivals),
            rate_hz=rate_hz,
            duration_s=self.settings.seconds,
            budgets=parse_budgets(self.settings.budgets),
            full_depth_s=reference.full_depth_s,
            seed=self.settings.seed,
            classes=self.catalog.classes,
            ap_by_depth={entry.depth: entry.ap for entry in exits},
            grace_s=GRACE_S,
            warm_up=WARM_UP,
        )

    def twin(self, reference: Reference) -> Twin:
        """What the simulator knows of this machine."""
        accuracy = tuple(entry.ap for entry in self.catalog.exits)
        profile = ModelProfile(self.catalog.name, "now", accuracy, reference.profile)
        return Twin(profile, reference.reserve_s, reference.slowdown)


def sent_to(system: System, load: LoadSettings) -> LoadSettings:
    """``load`` for this system."""
    return replace(load, url=system.server.url, target=Target(system.name))


# -- what to compare with what --------------------------------------------------------------------


def find_reference(subject: Subject, systems: Mapping[str, System], say: Say) -> Reference:
    """By the gateways of ``systems`` that have one depth. Raises StudyError."""
    say("timing segments")
    settings = subject.settings
    profile = segments_now(subject.folder, settings.runtime, settings.segment_rounds)
    engine = ModelProfile(
        subject.catalog.name, "now", tuple(e.ap for e in subject.catalog.exits), profile
    )
    say("measuring capacity at depth 1 and the time of full depth")
    shallow, deep = systems[SHALLOWEST], systems[DEEPEST]
    with shallow.awake():
        rates_hz = [
            ask_again_and_again(
                shallow.server.url, subject.pictures, CALLERS, WINDOW_S, Target()
            ).rate_hz
            for _ in range(CAPACITY_WINDOWS)
        ]
    with deep.awake():
        alone = ask_again_and_again(deep.server.url, subject.pictures, 1, WINDOW_S, Target())
        reserve_s = reserve_of(describe_server(deep.server.url))
    reference = Reference(
        capacity_hz=quantile(rates_hz, 0.5),
        capacities_hz=tuple(rates_hz),
        engine_capacity_hz=engine.capacity_hz,
        full_depth_s=alone.p50_s,
        engine_full_depth_s=engine.full_depth_s,
        reserve_s=reserve_s,
        peer_timeout_s=0.0,
        profile=profile,
    )
    rng = np.random.default_rng(settings.seed)
    budgets_s = parse_budgets(settings.budgets).sample_s(1001, reference.full_depth_s, rng)
    return replace(reference, peer_timeout_s=quantile(budgets_s.tolist(), 0.5))


def reserve_of(model: Mapping[str, object] | None) -> float:
    """What a gateway keeps of a budget for decoding and sending, from its /v1/models: the smallest
    budget for full depth without the engine's part of it. Raises StudyError."""
    try:
        deepest = model["exits"][-1]  # type: ignore[index]
        return (float(deepest["min_budget_ms"]) - float(deepest["predicted_ms"])) / 1e3
    except (LookupError, TypeError, ValueError) as error:
        raise StudyError("the gateway does not say what it predicts of full depth") from error


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
                seed + _SEEDS_PER_ROUND * number + int(index),
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
    twins = subject.twin(reference).steps()
    order = plan(settings.points, tuple(systems), settings.rounds, settings.seed)
    for number, points in enumerate(order):
        for arrivals, load, seed, names in points:
            rate_hz = load * reference.capacity_hz
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
    systems = {}
    for policy in POLICIES:
        log = logs / f"{policy.replace(':', '-')}.log"
        systems[policy] = stack.enter_context(
            gateway_system(
                policy, settings.model_repository, subject.catalog.name, settings.runtime, log
            )
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
            system = stack.enter_context(peer_system(kind, depth, label, python, told, log))
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
