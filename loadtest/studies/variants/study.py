"""``punctual study variants``: gateways that differ in their settings, under the same requests.

    processor time   one client that waits for each answer: what a request takes of the
                     processor, by what it goes to
    loads            an open loop: what is answered in time, and what that takes

Rounds are interleaved, each with the variants in a new order, and figures are compared within a
round, so that a slow moment of the machine falls on all alike. All but the one that is measured are
paused.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from loadtest.load.closed_loop import WARM_UP, run_closed_loop
from loadtest.load.open_loop import LoadSettings, run_load
from loadtest.load.summary import Summary, summarise
from loadtest.load.target import DETECT_PATH, Target
from loadtest.servers.processes import StudyError, get_text
from loadtest.studies.live.study import sent_to, started, versions
from loadtest.studies.live.systems import GRACE_S, SHIPPED, System, gateway_system, settling
from loadtest.studies.variants.report import (
    CLIENT,
    LoadRun,
    ProcessorRun,
    VariantsReport,
    write,
)
from loadtest.workload.arrivals import parse_arrivals
from loadtest.workload.budgets import parse_budgets
from loadtest.workload.images import AnnotatedImage, read_data
from reporting.machine import machine
from serving.artifacts.model_folders import find_model, read_entry
from serving.core.command_errors import InvalidArgument
from serving.core.quantiles import quantile

CONCURRENCY = 8
WINDOWS = 3
SHALLOWEST = f"{DETECT_PATH}?max_depth=1"
ARRIVALS = "poisson"
_SAMPLE = re.compile(r'^punctual_processor_seconds_total\{part="(\w+)"\} (\S+)$', re.MULTILINE)

Say = Callable[[str], None]
Start = Callable[[], AbstractContextManager[System]]


@dataclass(frozen=True)
class Variant:
    """One variant of the gateway: a name, and the settings in which it differs."""

    name: str
    settings: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Parse NAME or NAME:SETTING=VALUE,SETTING=VALUE. Raises InvalidArgument."""
        name, _, given = text.partition(":")
        pairs = [pair.partition("=") for pair in given.split(",") if pair]
        if not name or not all(key and equals and value for key, equals, value in pairs):
            raise InvalidArgument(f"expected NAME or NAME:SETTING=VALUE,..., not {text!r}")
        return cls(name, {key: value for key, _, value in pairs})


@dataclass(frozen=True)
class VariantsSettings:
    """The settings of a study of variants."""

    model_repository: Path
    model: str | None
    data: Path
    split: str
    variants: tuple[Variant, ...]
    """Variants that are compared, all with the first."""
    loads: tuple[float, ...]
    """Shares of what the first variant answers at depth 1; none: processor time only."""
    budgets: str
    rounds: int
    seconds: float
    """Seconds of one run."""
    seed: int

    def check(self) -> None:
        """Raise ValueError, with a sentence, for settings that cannot be meant."""
        parse_budgets(self.budgets)
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise InvalidArgument("variants must have different names")
        if not all(0 < load < float("inf") for load in self.loads):
            raise InvalidArgument("loads must be positive and finite")


def processor_seconds(exposition: str) -> dict[str, float]:
    """Return part -> seconds of processor time since the server's start, from its /metrics.

    Raises StudyError if it tells none.
    """
    found = {part: float(value) for part, value in _SAMPLE.findall(exposition)}
    if not found:
        raise StudyError("the server does not tell its processor time")
    return found


@dataclass(frozen=True)
class _Meter:
    """The processor time of a server by part, as of an instant."""

    seconds: Mapping[str, float]

    @classmethod
    def read(cls, system: System) -> _Meter:
        """Read it now. Raises StudyError."""
        return cls(processor_seconds(get_text(f"{system.server.url}/metrics")))

    def ms_each(
        self, system: System, num_requests: int, client_s: float, num_sent: int
    ) -> dict[str, float]:
        """Return part -> milliseconds for each of the ``num_requests`` since.

        The client is a part, with its seconds for ``num_sent`` of them.
        """
        now = _Meter.read(system).seconds
        each = {
            part: 1e3 * (now[part] - seconds) / num_requests
            for part, seconds in self.seconds.items()
        }
        return {**each, CLIENT: 1e3 * client_s / num_sent}


def study(
    settings: VariantsSettings,
    out: Path,
    say: Say,
    starters: Mapping[str, Start] | None = None,
) -> tuple[VariantsReport, Path]:
    """Measure all variants, and write the report as JSON and Markdown after every round.

    The files are ``out``/variants-DATE.json and .md; that path is returned without its suffix,
    after the report. ``starters`` start them otherwise than by their settings. Raises StudyError,
    and ValueError for settings that make no sense.
    """
    settings.check()
    model = read_entry(find_model(settings.model_repository, settings.model)).name
    # What is in them does not matter: accuracy is what the replies expect theirs to be.
    images = [replace(image, objects=None) for image in read_data(settings.data, settings.split)]
    date = time.strftime("%Y-%m-%d", time.gmtime())
    out.mkdir(parents=True, exist_ok=True)
    names = tuple(variant.name for variant in settings.variants)
    load_average = os.getloadavg()[0]
    with TemporaryDirectory() as logs:
        starting = starters or gateways(settings, model, images[0], Path(logs))
        say(f"starting {len(names)} gateways")
        with started(starting, names) as systems:
            capacity_hz, full_depth_s = _reference(systems[names[0]], images, settings.seconds, say)
            report = VariantsReport(
                machine=machine(),
                load_average=load_average,
                versions=versions("openvino"),
                date=date,
                model=model,
                variants={variant.name: variant.settings for variant in settings.variants},
                budgets=settings.budgets,
                capacity_hz=capacity_hz,
                full_depth_s=full_depth_s,
            )
            bench = _Bench(settings, images, systems, report)
            for number, order in enumerate(_orders(names, settings.rounds, settings.seed)):
                say(f"round {number + 1} of {settings.rounds}")
                bench.measure_processor(number, order)
                bench.measure_loads(number, order)
                write(report, out / f"variants-{date}")
    return report, out / f"variants-{date}"


def gateways(
    settings: VariantsSettings, model: str, image: AnnotatedImage, logs: Path
) -> dict[str, Start]:
    """Return how to start a gateway of each variant, with the policy that serves."""
    common: dict[str, object] = {
        "model_repository": settings.model_repository.resolve(),
        "model": model,
    }
    return {
        variant.name: partial(
            gateway_system, SHIPPED, {**common, **variant.settings}, image, logs / f"{number}.log"
        )
        for number, variant in enumerate(settings.variants)
    }


def _orders(names: Sequence[str], rounds: int, seed: int) -> Iterator[tuple[str, ...]]:
    """Yield the order of the variants in each round."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        yield tuple(names[i] for i in rng.permutation(len(names)))


def _reference(
    system: System, images: Sequence[AnnotatedImage], seconds: float, say: Say
) -> tuple[float, float]:
    """Return requests per second at depth 1, and the seconds of full depth with one client."""
    say("measuring capacity at depth 1 and the time of full depth")
    rates_hz, alone_s = [], []
    with system.running():
        for _ in range(WINDOWS):
            window_s = seconds / WINDOWS
            many = run_closed_loop(
                system.server.url, images, CONCURRENCY, window_s, Target(path=SHALLOWEST)
            )
            one = run_closed_loop(system.server.url, images, 1, window_s, Target())
            rates_hz.append(many.rate_hz)
            alone_s.append(one.p50_s)
    return quantile(rates_hz, 0.5), quantile(alone_s, 0.5)


@dataclass(frozen=True)
class _Bench:
    """The variants, running but paused, and the report that they fill."""

    settings: VariantsSettings
    images: Sequence[AnnotatedImage]
    systems: Mapping[str, System]
    report: VariantsReport

    def measure_processor(self, number: int, order: Sequence[str]) -> None:
        """Measure what a request takes of the processor, at depth 1 and as deep as it likes."""
        for name in order:
            system = self.systems[name]
            for depth, path in (("1", SHALLOWEST), ("any", DETECT_PATH)):
                with system.running():
                    before = _Meter.read(system)
                    client_s = time.process_time()
                    answers = run_closed_loop(
                        system.server.url,
                        self.images,
                        1,
                        self.settings.seconds / WINDOWS,
                        Target(path=path),
                    )
                    client_s = time.process_time() - client_s
                    count = len(answers.latencies_s) + WARM_UP
                    each = before.ms_each(system, count, client_s, count)
                self.report.processor_runs.append(
                    ProcessorRun(name, depth, number, 1e3 * answers.p50_s, each)
                )

    def measure_loads(self, number: int, order: Sequence[str]) -> None:
        """Measure every variant under the same requests, load by load."""
        for index, load in enumerate(self.settings.loads):
            requests = self._load(load, seed=self.settings.seed + number * len(order) + index)
            for name in order:
                summary, each = _measure(self.systems[name], requests)
                self.report.load_runs.append(LoadRun(name, load, number, summary, each))

    def _load(self, load: float, seed: int) -> LoadSettings:
        return LoadSettings(
            url="",
            images=tuple(self.images),
            arrivals=parse_arrivals(ARRIVALS),
            rate_hz=load * self.report.capacity_hz,
            duration_s=self.settings.seconds,
            budgets=parse_budgets(self.settings.budgets),
            full_depth_s=self.report.full_depth_s,
            seed=seed,
            grace_s=GRACE_S,
        )


def _measure(system: System, load: LoadSettings) -> tuple[Summary, dict[str, float]]:
    """Return the summary of a run after the system has settled, and its processor time."""
    load = sent_to(system, load)
    with system.running():
        run_load(settling(load))
        before = _Meter.read(system)
        result = run_load(replace(load, warm_up=1))
        count = len(result.outcomes)
        each = before.ms_each(system, count + 1, result.cpu_s, count)
    return summarise(result), each
