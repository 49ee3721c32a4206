"""``punctual study alerts``: a drill in which every alert must fire when it should, and none else.

    provoked    a gateway under light load suffers one thing after the other; each must make its
                alerts fire, and they must end after it
    healthy     the same load for ten minutes, during which no alert may fire

A real Prometheus scrapes a real gateway and evaluates the rules of k8s/monitoring, their durations
divided by ``speed``: at 60, ten minutes are what ten hours are in production.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from loadtest.load.open_loop import LoadSettings, run_load
from loadtest.load.summary import summarise
from loadtest.servers.faults import ERRATIC, STUCK
from loadtest.servers.processes import RunningServer, StudyError, gateway_server
from loadtest.servers.prometheus import Prometheus, prometheus, read_rules, shortened
from loadtest.studies.drills.report import AlertReport, HealthyRun, Provocation
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.budgets import parse_budgets
from loadtest.workload.images import AnnotatedImage, read_images

POLL_S = 0.25
MAX_LOAD = 100_000
"""Number of requests of a load that is ended before it has sent them all."""
LASTING = frozenset({"PunctualBudgetMissSlow"})
"""Alerts that look so far back that they outlast the drill."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class AlertDrillSettings:
    """The settings of a drill of alerts. Durations are in seconds."""

    model_repository: Path
    runtime: str
    rules: Path
    images: tuple[Path, ...]
    speed: float
    """Number that durations in the rules are divided by."""
    rate_hz: float
    """Requests per second of the load when all is well."""
    flood_hz: float
    budgets: str
    baseline_s: float
    """Seconds before the first provocation, so that the rules know what is usual."""
    patience_s: float
    """Seconds that an alert may take to fire, and to end."""
    healthy_s: float
    seed: int


@dataclass(frozen=True)
class Bench:
    """A gateway under light load that a Prometheus watches."""

    settings: AlertDrillSettings
    server: RunningServer
    prometheus: Prometheus
    fault: Path
    """File that says what the engine suffers from."""
    end_server: Callable[[], None]

    @contextlib.contextmanager
    def load(self, rate_hz: float) -> Iterator[None]:
        """Send requests at this rate, whatever becomes of them, within the context."""
        settings = self.settings
        command = [sys.executable, "-m", "serving", "loadtest", "--url", self.server.url]
        command += ["--image", *map(str, settings.images), "--rate", f"{rate_hz:g}"]
        command += ["--duration", f"{MAX_LOAD / rate_hz:g}", "--budgets", settings.budgets]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def suffering(self, fault: str) -> Iterator[None]:
        """Let the engine suffer from ``fault``, within the context."""
        self.fault.write_text(fault)
        try:
            yield
        finally:
            self.fault.write_text("")

    @contextlib.contextmanager
    def without_server(self) -> Iterator[None]:
        """End the server for good."""
        self.end_server()
        yield

    def wait_until(self, condition: Callable[[frozenset[str]], bool]) -> float | None:
        """Wait until ``condition`` holds of the alerts that fire, and return the seconds that took.

        None if it does not hold within the drill's patience. Raises StudyError.
        """
        started_s = time.monotonic()
        while not condition(self.prometheus.firing()):
            if time.monotonic() - started_s > self.settings.patience_s:
                return None
            time.sleep(POLL_S)
        return time.monotonic() - started_s


@dataclass(frozen=True)
class DrillStep:
    """One thing that is done to a gateway, and what Prometheus must say of it."""

    cause: str
    alerts: frozenset[str]
    provoke: Callable[[Bench], AbstractContextManager[None]]
    ends: bool = True
    """Whether the cause can be taken away again."""


STEPS = (
    DrillStep(
        "three turns of the engine in ten take up to 400 ms longer",
        frozenset({"PunctualBudgetMissFast", "PunctualBudgetMissSlow", "PunctualPredictionError"}),
        lambda bench: bench.suffering(ERRATIC),
    ),
    DrillStep(
        "far more load than exit 1 for everybody allows",
        frozenset({"PunctualShedding", "PunctualDepthCollapse"}),
        lambda bench: bench.load(bench.settings.flood_hz),
    ),
    DrillStep(
        "a turn of the engine does not return",
        frozenset({"PunctualExecutorStall"}),
        lambda bench: bench.suffering(STUCK),
    ),
    DrillStep(
        "the only gateway ends",
        frozenset({"PunctualNoneReady"}),
        lambda bench: bench.without_server(),
        ends=False,
    ),
)


@contextlib.contextmanager
def bench(settings: AlertDrillSettings, folder: Path) -> Iterator[Bench]:
    """Start a gateway and its Prometheus, until the context ends. Raises StudyError."""
    folder.mkdir()
    fault = folder / "fault"
    fault.write_text("")
    given = {"model_repository": settings.model_repository, "runtime": settings.runtime}
    command = ("study", "serve", "--policy", "deadline", "--fault-file", str(fault))
    spec = shortened(read_rules(settings.rules), settings.speed)
    with contextlib.ExitStack() as serving:
        gateway = gateway_server("the drilled one", given, folder / "gateway.log", command)
        server = serving.enter_context(gateway)
        targets = {"gateway-0": server.url}
        with prometheus(folder / "prometheus", targets, spec, settings.speed) as watching:
            yield Bench(settings, server, watching, fault, serving.close)


def run(
    settings: AlertDrillSettings,
    parts: Collection[str],
    report: AlertReport,
    scratch: Path,
    say: Say,
) -> None:
    """Run ``parts`` of the drill and add what they find to ``report``. Raises StudyError."""
    if "provoked" in parts:
        with bench(settings, scratch / "provoked") as provoked:
            report.provoked.extend(_provoke_all(provoked, say))
    if "healthy" in parts:
        with bench(settings, scratch / "healthy") as healthy:
            say(f"healthy: {settings.healthy_s:.0f} s of light load")
            report.healthy = _healthy(healthy, read_images(settings.images))


def _provoke_all(bench: Bench, say: Say) -> Iterator[Provocation]:
    with bench.load(bench.settings.rate_hz):
        say(f"provoked: {bench.settings.baseline_s:.0f} s of light load")
        time.sleep(bench.settings.baseline_s)
        for step in STEPS:
            say(f"provoked: {step.cause}")
            yield _provoke(bench, step)


def _provoke(bench: Bench, step: DrillStep) -> Provocation:
    before = bench.prometheus.firing()
    if before & step.alerts:
        raise StudyError(f"{', '.join(sorted(before & step.alerts))} fired before being provoked")
    seen: dict[str, float] = {}
    started_s = time.monotonic()

    def all_fire(firing: frozenset[str]) -> bool:
        for name in firing - before:
            seen.setdefault(name, time.monotonic() - started_s)
        return step.alerts <= seen.keys()

    with step.provoke(bench):
        bench.wait_until(all_fire)
    ended_s = bench.wait_until(lambda firing: firing <= LASTING) if step.ends else None
    return Provocation(
        cause=step.cause,
        fired_s={name: seen.get(name) for name in sorted(step.alerts)},
        others=tuple(sorted(seen.keys() - step.alerts)),
        ended_s=ended_s,
        ends=step.ends,
    )


def _healthy(bench: Bench, images: tuple[AnnotatedImage, ...]) -> HealthyRun:
    settings = bench.settings
    over = threading.Event()

    def watch() -> tuple[set[str], int]:
        fired: set[str] = set()
        polls = 0
        while not over.wait(POLL_S):
            fired |= bench.prometheus.firing()
            polls += 1
        return fired, polls

    load = LoadSettings(
        url=bench.server.url,
        images=images,
        arrivals=parse_arrivals("poisson"),
        rate_hz=settings.rate_hz,
        duration_s=settings.healthy_s,
        budgets=parse_budgets(settings.budgets),
        full_depth_s=1.0,
        seed=settings.seed,
    )
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            summary = summarise(run_load(load))
        finally:
            over.set()
        fired, polls = watching.result()
    return HealthyRun(settings.healthy_s, polls, tuple(sorted(fired)), summary.outcomes)
