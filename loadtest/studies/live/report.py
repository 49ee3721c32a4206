"""The findings of ``punctual study live``: records, figures over rounds, and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from loadtest.environment.spread import Spread
from loadtest.load.accounting import Account, total
from loadtest.load.outcomes import Outcome, RequestOutcome
from loadtest.load.served_accuracy import ServedAp
from loadtest.load.summary import Summary
from loadtest.simulation.recovery import Recovery, recovery
from loadtest.simulation.study import Timeline
from loadtest.studies.live.simulation import Simulated
from loadtest.studies.live.systems import SHIPPED
from reporting.intervals import MeanInterval
from serving.core.latency_profile import LatencyProfile

FORMAT = 2
PARTS_OF_RUN = 10
"""Number of parts of a run whose in-time accuracies are compared one by one."""


# -- records -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """The capacity that loads are shares of, and the time that budgets are multiples of.

    They are the same for all systems.
    """

    capacity_hz: float
    """Requests per second that the server answers at its quickest operating point.

    It is that of the whole server, with the client beside it.
    """
    load_hz: float
    """Requests per second that a load of 1 stands for: the capacity, or 1 where rates are given."""
    capacities_hz: tuple[float, ...]
    """Requests per second in each window, of which ``capacity_hz`` is the median."""
    engine_capacity_hz: float
    """Requests per second that the engine alone answers at its quickest operating point, as the
    simulator has it."""
    full_depth_s: float
    """Median seconds that an idle server takes for a request at its most accurate point.

    They are by the client's clock.
    """
    full_depths_s: tuple[float, ...]
    """Median seconds in each window, of which ``full_depth_s`` is the median."""
    engine_full_depth_s: float
    reserve_s: float
    """Seconds that a gateway keeps of every budget for decoding and sending."""
    peer_timeout_s: float
    """Seconds after which the peers are told to give up: the middle budget."""
    profile: LatencyProfile
    """Times of the segments, with nothing else running."""

    @property
    def slowdown(self) -> float:
        """Return how many times as long segments take at capacity as alone.

        At capacity, gateway and client are at work all the time.
        """
        return max(1.0, self.engine_capacity_hz / self.capacity_hz)

    def slowdown_at(self, rate_hz: float) -> float:
        """Return how many times as long segments take at a rate of requests as alone.

        Each request takes the machine from the engine for as long as one does at capacity; above
        it, most are refused, which costs less.
        """
        taken = min(1.0, rate_hz / self.capacity_hz) * (1 - 1 / self.slowdown)
        return 1 / (1 - taken)


@dataclass(frozen=True)
class LiveRun:
    """The result of one system at one point in one round."""

    system: str
    arrivals: str
    load: float
    round: int
    summary: Summary
    account: Account
    simulated: Mapping[str, Simulated]
    """Step of ``simulation.STEPS`` -> what the simulator says; empty for peers."""
    worth: tuple[float, ...]
    """In-time accuracy of the requests in each of the run's parts, which have as many each, the
    same ones for every system; see ``worth_of``."""


@dataclass(frozen=True)
class BurstRun:
    """The result of one system through a burst in one round."""

    system: str
    arrivals: str
    load: float
    """Load before and after the burst, as a share of capacity."""
    round: int
    burst_s: tuple[float, float]
    """Seconds from the run's start to the burst's start and to its end."""
    duration_s: float
    summary: Summary
    account: Account
    timeline: Timeline


@dataclass(frozen=True)
class Burst:
    """The runs of one system through a burst, over all rounds."""

    runs: tuple[BurstRun, ...]

    @property
    def system(self) -> str:
        """Return the system's name."""
        return self.runs[0].system

    @cached_property
    def timeline(self) -> Timeline:
        """Return the timeline summed over the rounds."""
        return Timeline.total([run.timeline for run in self.runs])

    @cached_property
    def recovery(self) -> Recovery | None:
        """Return the recovery from the burst; None if there is too little before or after it."""
        first = self.runs[0]
        return recovery(self.timeline, first.burst_s, first.duration_s, len(self.runs))

    @property
    def goodput_after_hz(self) -> float:
        """Return the answers in time per second, of what arrived after the burst."""
        first = self.runs[0]
        bin_s = first.duration_s / len(self.timeline.in_time)
        after = self.timeline.in_time[-int(-first.burst_s[1] // bin_s) :]
        return sum(after) / (len(self.runs) * max(bin_s, len(after) * bin_s))


@dataclass(frozen=True)
class Metric:
    """One figure of a run, and how a table shows it."""

    name: str
    title: str
    get: Callable[[Summary], float | None]
    digits: int
    factor: float = 1.0


def _ap(served: ServedAp | None) -> float | None:
    return None if served is None else served.ap


ATTAINMENT = Metric("attainment", "Answered in time, %", lambda s: s.attainment, 1, 100.0)
ACCURACY = Metric(
    "in_time_accuracy",
    "In-time accuracy (expected AP of the answers in time, summed / all requests)",
    lambda s: s.in_time_accuracy,
    3,
)
METRICS = (
    ATTAINMENT,
    ACCURACY,
    Metric(
        "served_with_misses",
        "Served AP, what was not answered in time as nothing found",
        lambda s: _ap(s.served_with_misses),
        3,
    ),
    Metric(
        "served_in_time", "Served AP of the answers in time", lambda s: _ap(s.served_in_time), 3
    ),
    Metric("goodput_hz", "Answered in time per second", lambda s: s.goodput_hz, 1),
    Metric("mean_depth", "Mean depth of the answers in time", lambda s: s.mean_depth, 2),
)
COMPARED = (ACCURACY, ATTAINMENT)
"""Metrics in which the shipped policy is compared with every other system."""


@dataclass
class LiveReport:
    """Everything that a live study measured, on what and how."""

    machine: str
    load_average: float
    """Load average of the machine in the minute before: what else it had to do."""
    versions: Mapping[str, str]
    date: str
    model: str
    model_digest: str
    settings: Mapping[str, Any]
    reference: Reference
    has_peers: bool
    compared: tuple[str, ...]
    """Names of the systems that take their turns at every load."""
    runs: list[LiveRun] = field(default_factory=list)
    bursts: list[BurstRun] = field(default_factory=list)

    @property
    def systems(self) -> list[str]:
        """Return the names of all systems: the shipped policy, other policies, peers."""
        return sorted(
            {run.system for run in self.all_runs},
            key=lambda name: (name != SHIPPED, self._is_peer(name), name),
        )

    def _is_peer(self, name: str) -> bool:
        return any(run.system == name and run.account.server is None for run in self.all_runs)

    @property
    def arrivals(self) -> list[str]:
        """Return the names of all arrivals: processes first, traces after them."""
        return sorted({run.arrivals for run in self.runs}, key=lambda name: (":" in name, name))

    @property
    def loads(self) -> list[float]:
        """Return all loads, ascending."""
        return sorted({run.load for run in self.runs})

    @property
    def all_runs(self) -> list[LiveRun | BurstRun]:
        """Return the runs of both parts: at steady loads, and through bursts."""
        return [*self.runs, *self.bursts]

    def at(self, system: str, arrivals: str, load: float) -> list[LiveRun]:
        """Return the rounds of one system at one point."""
        key = (system, arrivals, load)
        return [run for run in self.runs if (run.system, run.arrivals, run.load) == key]

    def spread(self, metric: Metric, system: str, arrivals: str, load: float) -> Spread | None:
        """Return a metric's spread over the rounds of one system at one point, if it has any."""
        values = [metric.get(run.summary) for run in self.at(system, arrivals, load)]
        known = [metric.factor * value for value in values if value is not None]
        return Spread.of(known) if known else None

    def lead(self, metric: Metric, rival: str, arrivals: str, load: float) -> Spread | None:
        """Return the spread of the shipped policy's lead over ``rival``, within each round.

        The lead is the shipped policy's metric less the rival's; the spread is None if no round has
        both.
        """
        ours = {run.round: run for run in self.at(SHIPPED, arrivals, load)}
        pairs = [
            (metric.get(ours[run.round].summary), metric.get(run.summary))
            for run in self.at(rival, arrivals, load)
            if run.round in ours
        ]
        known = [metric.factor * (a - b) for a, b in pairs if a is not None and b is not None]
        return Spread.of(known) if known else None

    def difference(self, rival: str, arrivals: str, load: float) -> MeanInterval | None:
        """Return how far the shipped policy's in-time accuracy is above ``rival``'s.

        Its interval is over parts of runs, in which both had the same requests; neighbours are
        taken to be independent. None if no round has both.
        """
        ours = {run.round: run.worth for run in self.at(SHIPPED, arrivals, load)}
        differences = [
            mine - its
            for run in self.at(rival, arrivals, load)
            for mine, its in zip(ours.get(run.round, ()), run.worth, strict=False)
        ]
        return MeanInterval.of(differences) if differences else None

    def best(self, kind: str, arrivals: str, load: float) -> str | None:
        """Return the system of a kind that is best in hindsight at one point, if there is any.

        A kind is what has an operating point in its name: ``fixed``, or a peer. Best is the highest
        mean in-time accuracy over the rounds.
        """
        means: dict[str, float] = {}
        for system in self.systems:
            known = [
                run.summary.in_time_accuracy
                for run in self.at(system, arrivals, load)
                if run.summary.in_time_accuracy is not None
            ]
            if system.startswith(f"{kind}:") and known:
                means[system] = sum(known) / len(known)
        return max(means, key=means.__getitem__, default=None)

    @property
    def kinds(self) -> list[str]:
        """Return the kinds of systems that have an operating point: fixed ones, then peers."""
        return list(dict.fromkeys(name.partition(":")[0] for name in self.systems if ":" in name))

    def through_bursts(self) -> list[Burst]:
        """Return the burst of each system that went through any."""
        runs = {name: [run for run in self.bursts if run.system == name] for name in self.systems}
        return [Burst(tuple(found)) for found in runs.values() if found]

    def burst_ratio(self, rival: str) -> Spread | None:
        """Return the spread of the shipped policy's goodput in a burst over ``rival``'s.

        Goodput is what was answered in time of what arrived in the burst; the ratio is taken within
        each round. None if no round has both.
        """
        by_round: dict[int, dict[str, float]] = {}
        for run in self.bursts:
            if (found := Burst((run,)).recovery) is not None:
                by_round.setdefault(run.round, {})[run.system] = found.during.goodput_hz
        ratios = [
            goodputs[SHIPPED] / goodputs[rival]
            for goodputs in by_round.values()
            if SHIPPED in goodputs and goodputs.get(rival)
        ]
        return Spread.of(ratios) if ratios else None

    def accounts(self) -> dict[str, Account]:
        """Return system -> the account of all its runs, bursts included."""
        by_system: dict[str, list[Account]] = {name: [] for name in self.systems}
        for run in self.all_runs:
            by_system[run.system].append(run.account)
        return {name: total(accounts) for name, accounts in by_system.items()}

    def not_valid(self) -> list[LiveRun | BurstRun]:
        """Return the runs in which the client could not keep up."""
        return [run for run in self.all_runs if not run.summary.is_valid]


def worth_of(outcomes: Sequence[RequestOutcome]) -> tuple[float, ...]:
    """Return the in-time accuracy of each of ``PARTS_OF_RUN`` parts of a run, in order.

    A part has as many requests as another, or one more. Answers that do not say what accuracy is
    to be expected of them count for nothing.
    """
    edges = [len(outcomes) * part // PARTS_OF_RUN for part in range(PARTS_OF_RUN + 1)]
    return tuple(
        sum(
            request.expected_ap or 0.0
            for request in outcomes[start:end]
            if request.outcome is Outcome.IN_TIME
        )
        / (end - start)
        for start, end in pairwise(edges)
        if start < end
    )


# -- JSON ----------------------------------------------------------------------------------------

_SUMMARY_FIELDS = (
    *("started", "schedule_digest", "count", "target_hz", "achieved_hz", "goodput_hz"),
    *("attainment", "in_time_accuracy", "expected_ap", "mean_depth", "depths", "points"),
    *("outcomes", "reasons", "is_valid", "invalid_because", "cpu_us_per_request"),
    *("is_real_time", "peak_connections"),
)
"""Fields of a summary that are written as they are.

The rest is the same for all runs, or shortened.
"""


def to_json(report: LiveReport) -> dict[str, Any]:
    """Return the whole report as JSON."""
    reference = report.reference
    return {
        "format": FORMAT,
        "machine": report.machine,
        "load_average": report.load_average,
        "versions": dict(report.versions),
        "date": report.date,
        "model": report.model,
        "model_digest": report.model_digest,
        "settings": dict(report.settings),
        "has_peers": report.has_peers,
        "reference": {
            **{name: value for name, value in vars(reference).items() if name != "profile"},
            "slowdown": reference.slowdown,
            "profile": reference.profile.to_json(),
        },
        "runs": [
            {
                **_head(run),
                "round": run.round,
                **_result(run),
                "simulated": {step: asdict(found) for step, found in run.simulated.items()},
                "worth": run.worth,
            }
            for run in report.runs
        ],
        "bursts": [
            {
                **_head(run),
                "round": run.round,
                **_result(run),
                "burst_s": run.burst_s,
                "duration_s": run.duration_s,
                "timeline": asdict(run.timeline),
            }
            for run in report.bursts
        ],
        "in_hindsight": [
            {
                "arrivals": arrivals,
                "load": load,
                "kind": kind,
                "system": best,
                "difference": None if difference is None else difference.to_json(),
            }
            for arrivals in report.arrivals
            for load in report.loads
            for kind in report.kinds
            if (best := report.best(kind, arrivals, load)) is not None
            for difference in (report.difference(best, arrivals, load),)
        ],
        "recovery": {burst.system: _recovery(burst) for burst in report.through_bursts()},
        "accounts": {name: asdict(account) for name, account in report.accounts().items()},
    }


def _recovery(burst: Burst) -> dict[str, Any] | None:
    if burst.recovery is None:
        return None
    return {**asdict(burst.recovery), "goodput_after_hz": burst.goodput_after_hz}


def _head(run: LiveRun | BurstRun) -> dict[str, Any]:
    return {"system": run.system, "arrivals": run.arrivals, "load": run.load}


def _result(run: LiveRun | BurstRun) -> dict[str, Any]:
    summary = run.summary
    return {
        **{name: getattr(summary, name) for name in _SUMMARY_FIELDS},
        "served_ap_in_time": _ap(summary.served_in_time),
        "served_ap_with_misses": _ap(summary.served_with_misses),
        "latency_ms": None if summary.latency_ms is None else asdict(summary.latency_ms),
        "lag_ms": asdict(summary.lag_ms),
        "account": asdict(run.account),
    }
