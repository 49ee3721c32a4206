"""``punctual study autoscaling``: a study of which signal tells that a fleet is too small.

    signals    a fleet of fixed size at one load after the other: what each signal is there
    runs       an overload of a fleet that is scaled by one signal or another

Both are in virtual time, with the policy that serves. Budgets are all the same, so that latency has
one objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.simulation.autoscaling import (
    SYNC_S,
    Autoscaler,
    FleetSample,
    Flood,
    Signals,
    scalers,
    simulate,
)
from loadtest.simulation.plots import DPI, legend, line_styles, panels
from loadtest.simulation.profiles import ModelProfile, load_profile
from reporting.files import write_report

SIGNAL_SERVERS = 2
SIGNAL_REQUESTS = 6000


@dataclass(frozen=True)
class AutoscalingStudySettings:
    """The settings of a study of autoscaling."""

    profiles: tuple[str, ...]
    """Names of the profiles for the signals; the overload is simulated on the first."""
    budget: float
    """Budget of every request, as a multiple of the time of full depth."""
    target: float
    """Target of the scaler that ships: full depth's share of each server's time."""
    demands: tuple[float, ...]
    """Loads at which signals are read: full depth's share of each server's time."""
    servers: int
    """Number of servers that a run begins with."""
    flood: Flood
    seeds: int


@dataclass(frozen=True)
class AutoscalingFigures:
    """Figures of a stretch of one simulation."""

    p99_of_budget: float
    waiting: float
    shed: float
    in_time: float
    """Share of all requests that was answered in time."""
    mean_ap: float
    """Mean AP of the answers in time."""
    servers: float

    @classmethod
    def of(
        cls, samples: Sequence[FleetSample], full_depth_s: float, budget_s: float
    ) -> AutoscalingFigures:
        """Compute the figures of some samples.

        There is at least one, and something arrived and was answered in time in them.
        """
        signals = Signals.of(samples, full_depth_s)
        arrived = sum(sample.arrived for sample in samples)
        in_time = sum(sample.in_time for sample in samples)
        return cls(
            p99_of_budget=signals.p99_s / budget_s,
            waiting=signals.waiting,
            shed=signals.shed,
            in_time=in_time / arrived,
            mean_ap=sum(sample.sum_ap for sample in samples) / in_time,
            servers=sum(sample.servers for sample in samples) / len(samples),
        )


@dataclass(frozen=True)
class AutoscalingRun:
    """One scaler's run through one overload."""

    scaler: str
    seed: int
    flooded: AutoscalingFigures
    fired_after_s: float | None
    """Seconds from the overload's start until more servers are ready.

    None if there were never more while it lasted.
    """
    servers_in_all: float
    """Mean number of servers over the whole run."""
    samples: tuple[FleetSample, ...]


@dataclass(frozen=True)
class AutoscalingReport:
    """Everything that a study of autoscaling found, and with what."""

    date: str
    machine: str
    settings: AutoscalingStudySettings
    signals: Mapping[str, Mapping[float, AutoscalingFigures]]
    """Name of a profile -> full-depth demand -> the figures at that load."""
    runs: tuple[AutoscalingRun, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON, without single latencies.

        Samples are of the first seed only, for they are many.
        """
        content = asdict(self)
        for run in content["runs"]:
            samples = run.pop("samples")
            if run["seed"] == 0:
                for sample in samples:
                    sample["p99_s"] = round(float(np.quantile(sample.pop("latencies_s"), 0.99)), 4)
                run["samples"] = samples
        return content


def study(
    settings: AutoscalingStudySettings, date: str, machine: str, say: Callable[[str], None]
) -> AutoscalingReport:
    """Simulate everything and return the report.

    Raises ValueError for a profile or budget that is none.
    """
    profiles = {name: load_profile(name) for name in settings.profiles}
    signals = {}
    for name, profile in profiles.items():
        say(f"signals of {name}")
        signals[name] = {demand: _at(profile, settings, demand) for demand in settings.demands}
    profile = profiles[settings.profiles[0]]
    runs = []
    for seed in range(settings.seeds):
        for name in scalers(1.0, settings.target):
            say(f"flood {seed + 1} of {settings.seeds}: {name}")
            runs.append(_run(profile, settings, name, seed))
    return AutoscalingReport(date, machine, settings, signals, tuple(runs))


def _at(
    profile: ModelProfile, settings: AutoscalingStudySettings, demand: float
) -> AutoscalingFigures:
    total = demand * SIGNAL_SERVERS
    syncs = max(4, round(SIGNAL_REQUESTS * profile.full_depth_s / total / SYNC_S))
    steady = Flood(total, syncs * SYNC_S, 0.0, 0.0, 1.0)
    arrivals, rest = np.random.default_rng(0).spawn(2)
    requests = steady.requests(profile, _budgets(settings), arrivals)
    samples = simulate(profile, requests, steady.duration_s, SIGNAL_SERVERS, None, rest)
    return AutoscalingFigures.of(
        samples, profile.full_depth_s, settings.budget * profile.full_depth_s
    )


def _run(
    profile: ModelProfile, settings: AutoscalingStudySettings, scaler: str, seed: int
) -> AutoscalingRun:
    flood, budget_s = settings.flood, settings.budget * profile.full_depth_s
    wanted = scalers(budget_s, settings.target)[scaler]
    arrivals, rest = np.random.default_rng(seed).spawn(2)  # the same for every scaler
    samples = simulate(
        profile,
        flood.requests(profile, _budgets(settings), arrivals),
        flood.duration_s,
        settings.servers,
        None if wanted is None else Autoscaler(wanted),
        rest,
    )
    end_s = flood.start_s + flood.length_s
    flooded = [sample for sample in samples if flood.start_s < sample.time_s <= end_s]
    before = max(sample.servers for sample in samples if sample.time_s <= flood.start_s)
    fired = [sample.time_s - flood.start_s for sample in flooded if sample.servers > before]
    return AutoscalingRun(
        scaler,
        seed,
        AutoscalingFigures.of(flooded, profile.full_depth_s, budget_s),
        fired[0] if fired else None,
        sum(sample.servers for sample in samples) / len(samples),
        tuple(samples),
    )


def _budgets(settings: AutoscalingStudySettings) -> str:
    return f"{settings.budget:g}x"


# -- tables --------------------------------------------------------------------------------------


def markdown(report: AutoscalingReport) -> str:
    """Return the report as Markdown: the tables, with what they are of."""
    settings, flood = report.settings, report.settings.flood
    lines = [
        f"# What to scale on, {report.date}",
        "",
        f"Simulated on {report.machine}. All budgets are {settings.budget:g} times the time of "
        "full depth; Poisson arrivals; the policy that serves.",
    ]
    for name, by_demand in report.signals.items():
        lines += [
            "",
            f"## Signals of {SIGNAL_SERVERS} servers, {name}",
            "",
            "| full-depth demand | p99 latency / budget | waiting | shed | in time | mean AP |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {demand:g} | {f.p99_of_budget:.2f} | {f.waiting:.1f} | {f.shed:.1%} "
            f"| {f.in_time:.1%} | {f.mean_ap:.3f} |"
            for demand, f in by_demand.items()
        ]
    lines += [
        "",
        f"## A flood, {settings.profiles[0]}",
        "",
        f"{settings.servers} servers with a demand of {flood.demand / settings.servers:g} each; "
        f"{flood.factor:g} times as much for {flood.length_s:g} s. Means of {settings.seeds} "
        "seeds, during the flood; more servers: after how many seconds.",
        "",
        "| scaled by | more servers | servers | in time | mean AP | shed | p99 latency / budget "
        "| waiting |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for scaler in dict.fromkeys(run.scaler for run in report.runs):
        of = [run for run in report.runs if run.scaler == scaler]
        fired = [run.fired_after_s for run in of if run.fired_after_s is not None]
        when = f"{sum(fired) / len(fired):.0f}" if len(fired) == len(of) else "never"
        if fired and len(fired) < len(of):
            when = f"in {len(fired)} of {len(of)}"

        def mean(field: str, of: Sequence[AutoscalingRun] = of) -> float:
            return sum(float(getattr(run.flooded, field)) for run in of) / len(of)

        lines.append(
            f"| {scaler} | {when} | {mean('servers'):.1f} | {mean('in_time'):.1%} "
            f"| {mean('mean_ap'):.3f} | {mean('shed'):.1%} | {mean('p99_of_budget'):.2f} "
            f"| {mean('waiting'):.1f} |"
        )
    return "\n".join(lines) + "\n"


# -- files ---------------------------------------------------------------------------------------


def write(report: AutoscalingReport, folder: Path) -> list[Path]:
    """Write figures, tables and a plot into ``folder``, which exists, and return their paths."""
    stem = folder / f"autoscaling-{report.date}"
    written = write_report(stem, report.to_json(), markdown(report))
    return [*written, _plot(report, stem.with_suffix(".png"))]


def _plot(report: AutoscalingReport, path: Path) -> Path:
    flood = report.settings.flood
    full_depth_s = load_profile(report.settings.profiles[0]).full_depth_s
    budget_s = report.settings.budget * full_depth_s
    figure, axes = panels(4, 2, height=2.6)
    figure.suptitle(f"A flood on a fleet scaled by each signal ({report.settings.profiles[0]})")
    titles = ("Servers", "Mean AP of those in time", "p99 latency / budget", "Waiting, a server")
    runs = [run for run in report.runs if run.seed == 0]
    styles = line_styles(run.scaler for run in runs)
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
        ax.set_xlabel("s")
        ax.set_xlim(0, flood.duration_s)
        ax.axvspan(flood.start_s, flood.start_s + flood.length_s, color="0.92", lw=0)
        ax.grid(alpha=0.3)
    for run in runs:
        at_s = [sample.time_s for sample in run.samples]
        each = [AutoscalingFigures.of((sample,), full_depth_s, budget_s) for sample in run.samples]
        style = {**styles[run.scaler], "marker": None}
        for ax, field in zip(axes, ("servers", "mean_ap", "p99_of_budget", "waiting"), strict=True):
            ax.plot(at_s, [getattr(figures, field) for figures in each], label=run.scaler, **style)
    for ax in (axes[0], axes[2], axes[3]):
        ax.set_ylim(0)
    legend(figure, axes)
    figure.savefig(path, dpi=DPI)
    return path
