"""Throughput and latency of the same detector behind Triton and behind the gateway.

They are measured by NVIDIA's perf_analyzer.

    round 1:  Triton d1   Triton dN   Triton anytime   gateway
    round 2:  gateway   Triton anytime   Triton dN   Triton d1
    ...

One server runs at a time, with one model, since they would share the cores. Ratios are taken round
by round, against ``<model>_dK`` of the same depth over plain gRPC under the same concurrency.
"""

from __future__ import annotations

import contextlib
import csv
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.environment.spread import Spread
from loadtest.servers import processes
from loadtest.servers.processes import StudyError

BUDGET_MS = 9000
"""Milliseconds of budget that are enough for any exit, however many requests wait."""
WINDOWS = 3
"""Number of windows that perf_analyzer measures for at least, and reports together."""
ANY_STABILITY = "1000000"
"""Per cent by which perf_analyzer's windows may differ: rounds show the spread instead."""
WARM_UP_REQUESTS = 20
PATIENCE_S = 120.0
"""Seconds that a run may take beyond its windows."""
TRITON, GATEWAY = "Triton", "gateway"
PLAIN = "gRPC"
SHARED_MEMORY = ("--shared-memory", "system")

_DEPTHS = re.compile(
    r'^punctual_exit_depth_total\{depth="([0-9]+)",[^}]*\} ([0-9.e+]+)$', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Load:
    """One way of calling a model, which is a line of the result."""

    server: str
    model: str
    transport: str
    depth: int
    concurrency: int
    options: tuple[str, ...] = ()
    """Options of perf_analyzer beyond the address, the model and the measurement."""


@dataclass(frozen=True, slots=True)
class Window:
    """The figures that perf_analyzer reports of one run."""

    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class PerfFigures:
    """The figures of one load over all rounds."""

    server: str
    model: str
    transport: str
    depth: int
    concurrency: int
    per_s: Spread
    p50_ms: Spread
    p90_ms: Spread
    p99_ms: Spread
    per_s_to_plain: Spread
    """Spread of the throughput over that of ``<model>_dK`` over plain gRPC in the same round."""
    p50_to_plain: Spread
    """Spread of the median latency over that of plain gRPC to ``<model>_dK``, by round."""
    rounds: tuple[Window, ...]


@dataclass(frozen=True)
class PerfTarget:
    """One server with one model."""

    protocol: str
    start: Callable[[], contextlib.AbstractContextManager[str]]
    """How to start the server; yields the host and port that perf_analyzer is pointed at."""
    loads: tuple[Load, ...]


# -- which loads there are -----------------------------------------------------------------------


def depth_loads(model: str, depth: int, callers: Sequence[int]) -> tuple[Load, ...]:
    """Return the loads of ``<model>_d<depth>``, whose only input has a fixed shape."""
    name = f"{model}_d{depth}"
    return tuple(
        Load(TRITON, name, transport, depth, concurrency, options)
        for transport, options in ((PLAIN, ()), (f"{PLAIN}, shared memory", SHARED_MEMORY))
        for concurrency in callers
    )


def anytime_loads(
    model: str, depths: Sequence[int], height: int, width: int, callers: Sequence[int]
) -> tuple[Load, ...]:
    """Return the loads of ``<model>_anytime``, held to one depth at a time.

    Its input is optional, so perf_analyzer wants the shape.
    """
    return tuple(
        Load(
            TRITON,
            f"{model}_anytime",
            f"{PLAIN} stream",
            depth,
            concurrency,
            (
                *("--streaming", "--shape", f"image:{height},{width},3"),
                *("--request-parameter", f"min_depth:{depth}:int"),
                *("--request-parameter", f"max_depth:{depth}:int"),
                *("--request-parameter", f"timeout:{BUDGET_MS * 1000}:int"),
            ),
        )
        for depth in depths
        for concurrency in callers
    )


def gateway_loads(
    model: str, num_exits: int, height: int, width: int, callers: Sequence[int]
) -> tuple[Load, ...]:
    """Return the loads of the gateway's own KServe v2 surface.

    perf_analyzer sends no parameters over HTTP, so only full depth can be had, by a generous
    budget.
    """
    options = ("--shape", f"image:{height},{width},3", "-H", f"X-Deadline-Ms: {BUDGET_MS}")
    return tuple(
        Load(GATEWAY, model, "HTTP", num_exits, concurrency, options) for concurrency in callers
    )


@contextlib.contextmanager
def at_full_depth(gateway: contextlib.AbstractContextManager[str], num_exits: int) -> Iterator[str]:
    """Yield host and port of a ``gateway`` that yields its URL.

    Raises StudyError at the end if it has answered from any other exit than the deepest.
    """
    with gateway as url:
        yield url.removeprefix("http://")
        check_full_depth(processes.get_text(f"{url}/metrics"), num_exits)


def check_full_depth(metrics: str, num_exits: int) -> None:
    """Raise StudyError unless all answers that ``metrics`` tell of are of exit ``num_exits``.

    ``metrics`` is the text of the gateway's /metrics.
    """
    counts = {int(depth): float(count) for depth, count in _DEPTHS.findall(metrics)}
    shallower = sum(count for depth, count in counts.items() if depth != num_exits)
    if shallower or not counts.get(num_exits):
        raise StudyError(
            f"the gateway was to answer from exit {num_exits} only; by depth, it gave {counts}"
        )


# -- running them --------------------------------------------------------------------------------


class PerfAnalyzer:
    """The program perf_analyzer, called with one load at a time."""

    def __init__(self, binary: Path, environment: Mapping[str, str], window_ms: int) -> None:
        self._binary = binary
        self._environment = environment
        self._window_ms = window_ms

    def measure(self, protocol: str, address: str, load: Load) -> Window:
        """Measure one run of ``WINDOWS`` windows. Raises StudyError."""
        return self._run(
            protocol,
            address,
            load,
            *("--measurement-interval", str(self._window_ms), "--max-trials", str(WINDOWS)),
            *("--stability-percentage", ANY_STABILITY),
        )

    def warm_up(self, protocol: str, address: str, load: Load) -> None:
        """Run a load once without looking at its figures. Raises StudyError."""
        self._run(protocol, address, load, "--request-count", str(WARM_UP_REQUESTS))

    def _run(self, protocol: str, address: str, load: Load, *measurement: str) -> Window:
        with TemporaryDirectory() as folder:
            report = Path(folder) / "report.csv"
            command = [
                *(str(self._binary), "-i", protocol, "-u", address, "-m", load.model),
                *("--concurrency-range", str(load.concurrency), "-f", str(report)),
                *measurement,
                *load.options,
            ]
            log = Path(folder) / "log"
            limit_s = PATIENCE_S + WINDOWS * self._window_ms / 1e3
            name = f"perf_analyzer against {load.model} ({load.transport})"
            with log.open("wb") as sink:
                try:
                    done = subprocess.run(
                        command,
                        env=self._environment,
                        stdout=sink,
                        stderr=subprocess.STDOUT,
                        timeout=limit_s,
                        check=False,
                    )
                except subprocess.TimeoutExpired as error:
                    said = processes.quote(log)
                    raise StudyError(f"{name} went on after {limit_s:.0f} s{said}") from error
            if done.returncode != 0 or not report.exists():
                raise StudyError(f"{name} ended with {done.returncode}{processes.quote(log)}")
            return parse_report(report.read_text())


def parse_report(text: str) -> Window:
    """Read perf_analyzer's CSV (``-f``). Raises StudyError.

    It has one line for each concurrency, here one.
    """
    rows = list(csv.DictReader(text.splitlines()))
    if len(rows) != 1:
        raise StudyError(f"perf_analyzer's report has {len(rows)} lines instead of one")
    try:
        return Window(
            float(rows[0]["Inferences/Second"]),
            *(float(rows[0][f"p{q} latency"]) / 1e3 for q in (50, 90, 99)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(f"perf_analyzer's report cannot be read: {error!r}") from error


def measure(
    targets: Sequence[PerfTarget], analyzer: PerfAnalyzer, rounds: int, say: Callable[[str], None]
) -> list[PerfFigures]:
    """Measure all loads of all targets, ``rounds`` times, every other time backwards.

    Raises StudyError.
    """
    windows: dict[Load, list[Window]] = defaultdict(list)
    for turn in range(rounds):
        for target in targets if turn % 2 == 0 else reversed(targets):
            first = target.loads[0]
            say(f"perf: round {turn + 1} of {rounds}, {first.server}, {first.model}")
            with target.start() as address:
                analyzer.warm_up(target.protocol, address, first)
                for load in target.loads:
                    windows[load].append(analyzer.measure(target.protocol, address, load))
    return summarise([load for target in targets for load in target.loads], windows)


def summarise(loads: Sequence[Load], windows: Mapping[Load, Sequence[Window]]) -> list[PerfFigures]:
    """Compute the figures of each of ``loads``; ``windows`` has one for each round.

    Plain gRPC to a depth model must be among them for each depth and concurrency that is.
    """
    plain = {
        (load.depth, load.concurrency): windows[load] for load in loads if load.transport == PLAIN
    }
    lines = []
    for load in loads:
        mine, theirs = windows[load], plain[load.depth, load.concurrency]
        pairs = list(zip(mine, theirs, strict=True))
        lines.append(
            PerfFigures(
                load.server,
                load.model,
                load.transport,
                load.depth,
                load.concurrency,
                per_s=Spread.of(each.per_s for each in mine),
                p50_ms=Spread.of(each.p50_ms for each in mine),
                p90_ms=Spread.of(each.p90_ms for each in mine),
                p99_ms=Spread.of(each.p99_ms for each in mine),
                per_s_to_plain=Spread.of(a.per_s / b.per_s for a, b in pairs),
                p50_to_plain=Spread.of(a.p50_ms / b.p50_ms for a, b in pairs),
                rounds=tuple(mine),
            )
        )
    return lines
