"""What one client after the other gets out of a model: NVIDIA's perf_analyzer against the same
detector behind Triton and behind the gateway.

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
"""Enough for any exit, however many wait."""
WINDOWS = 3
"""perf_analyzer measures for this many windows at least, and reports them together."""
ANY_STABILITY = "1000000"
"""Per cent by which windows may differ: rounds show the spread instead."""
WARM_UP_REQUESTS = 20
PATIENCE_S = 120.0
"""For a run, beyond its windows."""
TRITON, GATEWAY = "Triton", "gateway"
PLAIN = "gRPC"
SHARED_MEMORY = ("--shared-memory", "system")

_DEPTHS = re.compile(
    r'^punctual_exit_depth_total\{depth="([0-9]+)",[^}]*\} ([0-9.e+]+)$', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Load:
    """How one model is called: a line of the result."""

    server: str
    model: str
    transport: str
    depth: int
    concurrency: int
    options: tuple[str, ...] = ()
    """perf_analyzer's own, beyond the address, the model and the measurement."""


@dataclass(frozen=True, slots=True)
class Window:
    """What perf_analyzer reports of one run."""

    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class PerfFigures:
    """One load over all rounds."""

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
    """Throughput over that of ``<model>_dK`` over plain gRPC in the same round."""
    p50_to_plain: Spread
    """The same of the median latency."""
    rounds: tuple[Window, ...]


@dataclass(frozen=True)
class PerfTarget:
    """One server with one model."""

    protocol: str
    start: Callable[[], contextlib.AbstractContextManager[str]]
    """Yields the host and port that perf_analyzer is pointed at."""
    loads: tuple[Load, ...]


# -- which loads there are -----------------------------------------------------------------------


def depth_loads(model: str, depth: int, callers: Sequence[int]) -> tuple[Load, ...]:
    """Of ``<model>_d<depth>``, whose only input has a fixed shape."""
    name = f"{model}_d{depth}"
    return tuple(
        Load(TRITON, name, transport, depth, concurrency, options)
        for transport, options in ((PLAIN, ()), (f"{PLAIN}, shared memory", SHARED_MEMORY))
        for concurrency in callers
    )


def anytime_loads(
    model: str, depths: Sequence[int], height: int, width: int, callers: Sequence[int]
) -> tuple[Load, ...]:
    """Of ``<model>_anytime``, held to one depth at a time. Its input is optional, so perf_analyzer
    wants the shape."""
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
    """Of the gateway's own KServe v2 surface. perf_analyzer sends no parameters over HTTP, so only
    full depth can be had, by a generous budget."""
    options = ("--shape", f"image:{height},{width},3", "-H", f"X-Deadline-Ms: {BUDGET_MS}")
    return tuple(
        Load(GATEWAY, model, "HTTP", num_exits, concurrency, options) for concurrency in callers
    )


@contextlib.contextmanager
def at_full_depth(gateway: contextlib.AbstractContextManager[str], num_exits: int) -> Iterator[str]:
    """Host and port of a ``gateway`` that yields its URL. Raises StudyError at the end if it has
    answered from any other exit than the deepest."""
    with gateway as url:
        yield url.removeprefix("http://")
        check_full_depth(processes.get_text(f"{url}/metrics"), num_exits)


def check_full_depth(metrics: str, num_exits: int) -> None:
    """Raises StudyError unless all answers that the gateway's ``metrics`` tell of are of exit
    ``num_exits``."""
    counts = {int(depth): float(count) for depth, count in _DEPTHS.findall(metrics)}
    shallower = sum(count for depth, count in counts.items() if depth != num_exits)
    if shallower or not counts.get(num_exits):
        raise StudyError(
            f"the gateway was to answer from exit {num_exits} only; by depth, it gave {counts}"
        )


# -- running them --------------------------------------------------------------------------------


class PerfAnalyzer:
    """The program, called with one load at a time."""

    def __init__(self, binary: Path, environment: Mapping[str, str], window_ms: int) -> None:
        self._binary = binary
        self._environment = environment
        self._window_ms = window_ms

    def measure(self, protocol: str, address: str, load: Load) -> Window:
        """One run of ``WINDOWS`` windows. Raises StudyError."""
        return self._run(
            protocol,
            address,
            load,
            *("--measurement-interval", str(self._window_ms), "--max-trials", str(WINDOWS)),
            *("--stability-percentage", ANY_STABILITY),
        )

    def warm_up(self, protocol: str, address: str, load: Load) -> None:
        """A run whose figures nobody wants. Raises StudyError."""
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
    """perf_analyzer's CSV (``-f``), which has one line for each concurrency, here one. Raises
    StudyError."""
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
    """All loads of all targets, ``rounds`` times, every other time backwards. Raises
    StudyError."""
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
    """One line for each of ``loads``; ``windows`` has one for each round. Plain gRPC to a depth
    model must be among them for each depth and concurrency that is."""
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
