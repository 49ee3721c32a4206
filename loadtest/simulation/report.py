"""The findings of a study by simulation: means with intervals, and comparisons.

Policies are compared in *in-time accuracy*: AP summed over the requests answered in time, over all
requests. Comparisons are paired: a difference is taken between runs of one seed, which saw the same
requests, and its interval is over the seeds.

The *regret* is how much the shipped policy's in-time accuracy falls short of that of the best fixed
operating point in hindsight: the one of all whose mean over the seeds is highest at that point of
the study. Nobody could have chosen it beforehand, and that it is a largest mean favours it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from loadtest.simulation.profiles import ModelProfile, load_profile
from loadtest.simulation.recovery import Recovery, recovery
from loadtest.simulation.study import (
    HINDSIGHT,
    Conditions,
    Point,
    RunResult,
    Timeline,
    fixed_policies,
)
from loadtest.workload.arrivals import parse_arrivals
from reporting.intervals import MeanInterval

FORMAT = 2
SHIPPED = "deadline"
"""Name of the policy that serves."""
SHALLOWEST = "fixed:1"
HIGH_ATTAINMENT = 0.9
"""Attainment of the shallowest exit alone from which on the shipped policy is compared with it.

Where the shallowest exit attains so much, the shipped policy must nearly do so too.
"""
ATTAINMENT_MARGIN = 0.01
"""Attainment by which the shipped policy may fall short of the shallowest exit's."""

METRICS: Mapping[str, Callable[[RunResult], float | None]] = {
    "attainment": lambda run: run.attainment,
    "mean_ap": lambda run: run.mean_ap,
    "in_time_accuracy": lambda run: run.in_time_accuracy,
    "goodput_hz": lambda run: run.goodput_hz,
    "share_of_oracle": lambda run: run.share_of_oracle,
    "stability": lambda run: run.stability,
    "bound": lambda run: run.bound_ap and run.bound_ap / max(1, run.num_requests),
}
"""Name of a metric -> its value for a run. ``bound`` is the in-time accuracy that no schedule
exceeds."""


@dataclass(frozen=True)
class GridCell:
    """The runs of one policy at one point, by seed."""

    runs: tuple[RunResult, ...]

    @cached_property
    def metrics(self) -> dict[str, MeanInterval]:
        """Return the intervals of those of ``METRICS`` that every run has."""
        columns = {name: [get(run) for run in self.runs] for name, get in METRICS.items()}
        return {
            name: MeanInterval.of([value for value in values if value is not None])
            for name, values in columns.items()
            if None not in values
        }

    @property
    def shed(self) -> Counter[str]:
        """Return reason -> number of requests shed, summed over the seeds."""
        return sum((Counter(run.shed) for run in self.runs), Counter())

    @property
    def points(self) -> Counter[str]:
        """Return operating point -> number of answers in time, summed over the seeds."""
        return sum((Counter(run.points) for run in self.runs), Counter())

    @property
    def timeline(self) -> Timeline | None:
        """Return the timeline summed over the seeds; None unless the arrivals follow a schedule."""
        lines = [run.timeline for run in self.runs if run.timeline is not None]
        return Timeline.total(lines) if lines else None


@dataclass(frozen=True, slots=True)
class Versus:
    """A comparison at one point: the shipped policy's value of a metric less a rival's."""

    point: Point
    rival: str
    difference: MeanInterval

    @property
    def is_certain(self) -> bool:
        """Return whether the whole interval lies below zero."""
        return self.difference.mean + self.difference.half < 0


class SimulationReport:
    """The report on all runs of a study, by point and policy."""

    def __init__(
        self,
        conditions: Conditions,
        points: Sequence[Point],
        policies: Sequence[str],
        runs: Iterable[RunResult],
    ) -> None:
        """Take ``runs``, in any order, of every policy at every point."""
        self.conditions = conditions
        self.runs = sorted(runs, key=lambda run: run.seed)
        grouped: dict[tuple[Point, str], list[RunResult]] = {}
        for run in self.runs:
            grouped.setdefault((run.point, run.policy), []).append(run)
        cells = {key: GridCell(tuple(runs)) for key, runs in grouped.items()}
        self.fixed: dict[Point, dict[str, GridCell]] = {}
        """Point -> name -> the cell of each fixed operating point, if hindsight was asked for."""
        self.best_fixed: dict[Point, str] = {}
        """Point -> name of the fixed operating point that is best in hindsight, if asked for."""
        if HINDSIGHT in policies:
            for point in points:
                names = fixed_policies(point.profile)
                fixed = self.fixed[point] = {name: cells[point, name] for name in names}
                self.best_fixed[point] = max(
                    names, key=lambda name: fixed[name].metrics["in_time_accuracy"].mean
                )
        self.cells = {
            point: {
                policy: cells[point, self.best_fixed[point] if policy == HINDSIGHT else policy]
                for policy in policies
            }
            for point in points
        }

    def versus(self, metric: str, rivals: Sequence[str] | None = None) -> list[Versus]:
        """Compare the shipped policy with each rival, at every point."""
        found = []
        get = METRICS[metric]
        for point, cells in self.cells.items():
            if SHIPPED not in cells:
                continue
            ours = {run.seed: get(run) for run in cells[SHIPPED].runs}
            for rival, cell in cells.items():
                if rival == SHIPPED or (rivals is not None and rival not in rivals):
                    continue
                pairs = [(ours.get(run.seed), get(run)) for run in cell.runs]
                differences = [a - b for a, b in pairs if a is not None and b is not None]
                if differences:
                    found.append(Versus(point, rival, MeanInterval.of(differences)))
        return found

    def regrets(self) -> dict[Point, MeanInterval]:
        """Return what hindsight has more than the shipped policy, in in-time accuracy, by point.

        There is nothing unless both were asked for.
        """
        return {
            versus.point: MeanInterval(-versus.difference.mean, versus.difference.half)
            for versus in self.versus("in_time_accuracy", [HINDSIGHT])
        }

    def not_won(self) -> list[Versus]:
        """Return the comparisons in which a rival's in-time accuracy is higher on average."""
        return [v for v in self.versus("in_time_accuracy") if v.difference.mean < 0]

    def attains_less(self) -> list[Versus]:
        """Return where the shallowest exit attains much and the shipped policy clearly less."""
        return [
            v
            for v in self.versus("attainment", [SHALLOWEST])
            if self.cells[v.point][SHALLOWEST].metrics["attainment"].mean >= HIGH_ATTAINMENT
            and v.difference.mean < -ATTAINMENT_MARGIN
        ]

    def share_of_oracle(self, policy: str = SHIPPED) -> float | None:
        """Return the policy's share of the oracle's bound, a mean over points, if there is one."""
        shares = [
            cells[policy].metrics["share_of_oracle"].mean
            for cells in self.cells.values()
            if policy in cells and "share_of_oracle" in cells[policy].metrics
        ]
        return math.fsum(shares) / len(shares) if shares else None

    def recoveries(self) -> list[tuple[Point, str, Recovery]]:
        """Return the recovery of each policy, at each point whose arrivals are a burst.

        The burst must have something around it.
        """
        found = []
        for point, cells in self.cells.items():
            burst_s = parse_arrivals(point.arrivals).burst_s
            duration_s = point.duration_s(self.conditions)
            for policy, cell in cells.items():
                if burst_s is not None and (timeline := cell.timeline) is not None:
                    result = recovery(timeline, burst_s, duration_s, len(cell.runs))
                    if result is not None:
                        found.append((point, policy, result))
        return found

    def speed(self) -> dict[str, dict[str, float]]:
        """Return policy -> simulated requests, and decisions, per second of one core."""
        by_policy: dict[str, list[RunResult]] = {}
        for cells in self.cells.values():
            for policy, cell in cells.items():
                if policy != HINDSIGHT:
                    by_policy.setdefault(policy, []).extend(cell.runs)
        return {
            policy: {
                "requests_per_s": sum(run.num_requests for run in runs) / cpu_s,
                "decisions_per_s": sum(run.num_decisions for run in runs) / cpu_s,
            }
            for policy, runs in by_policy.items()
            if (cpu_s := math.fsum(run.cpu_s for run in runs)) > 0
        }

    def to_json(self) -> dict[str, Any]:
        """Return means, intervals and sums as JSON; of each run only its in-time accuracy."""
        regrets = self.regrets()
        return {
            "format": FORMAT,
            "conditions": asdict(self.conditions),
            "profiles": {
                name: _profile_json(load_profile(name))
                for name in dict.fromkeys(point.profile for point in self.cells)
            },
            "trace_digests": {
                name: digest
                for name in dict.fromkeys(point.arrivals for point in self.cells)
                if (digest := parse_arrivals(name).digest) is not None
            },
            "points": [
                {
                    **asdict(point),
                    "rate_hz": point.rate_hz(self.conditions),
                    "policies": {policy: _cell_json(cell) for policy, cell in cells.items()},
                    "best_fixed": self.best_fixed.get(point),
                    "fixed": {
                        name: cell.metrics["in_time_accuracy"].mean
                        for name, cell in self.fixed.get(point, {}).items()
                    },
                    "regret": regrets[point].to_json() if point in regrets else None,
                }
                for point, cells in self.cells.items()
            ],
            "not_won": [_versus_json(v) for v in self.not_won()],
            "attains_less": [_versus_json(v) for v in self.attains_less()],
            "share_of_oracle": self.share_of_oracle(),
            "recoveries": [
                {**asdict(point), "policy": policy, **asdict(result)}
                for point, policy, result in self.recoveries()
            ],
            "speed": self.speed(),
        }


def _profile_json(profile: ModelProfile) -> dict[str, Any]:
    latency = profile.latency
    return {
        "accuracy": {profile.ladder.label(p): profile.ladder.ap(p) for p in profile.ladder.points},
        "full_depth_s": profile.full_depth_s,
        "capacity_hz": profile.capacity_hz,
        "batch_sizes": profile.batch_sizes,
        "measured": f"{latency.runtime}, {latency.machine}, {latency.date}",
    }


def _cell_json(cell: GridCell) -> dict[str, Any]:
    timeline = cell.timeline
    return {
        "metrics": {name: interval.to_json() for name, interval in cell.metrics.items()},
        "requests": sum(run.num_requests for run in cell.runs),
        "late": sum(run.num_late for run in cell.runs),
        "shed": dict(cell.shed),
        "points": dict(cell.points),
        "in_time_accuracy_by_seed": {str(run.seed): run.in_time_accuracy for run in cell.runs},
        "timeline": asdict(timeline) if timeline else None,
    }


def _versus_json(versus: Versus) -> dict[str, Any]:
    return {
        **asdict(versus.point),
        "rival": versus.rival,
        "difference": versus.difference.to_json(),
        "certain": versus.is_certain,
    }
