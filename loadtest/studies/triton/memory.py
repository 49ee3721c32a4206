"""The memory that a model's segments take, by how they are spread over runners and processes.

    the runtime alone        ( )                        no segment at all: what the rest is above
    unit segments            (stem, stacks, heads)
    unit and fused           (stem, stacks, heads, exit_1 .. exit_N)
    N models, one process    (exit_1) (exit_2) .. (exit_N)       a runner each, as a server with
    N models, N processes    (exit_1) | (exit_2) | .. | (exit_N)         a model per depth has

Each case is measured in fresh processes that have run every segment once at every batch size, by
their proportional set size (PSS): a page that k processes share counts as 1/k in each, so that
libraries are not counted N times. What is not of a file (anonymous: weights as compiled, buffers,
the heap) is told apart, since that is what a segment adds.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from loadtest.environment.spread import Spread
from loadtest.servers import processes
from loadtest.servers.processes import StudyError
from serving.core import segment as segments
from serving.core.catalog import Catalog
from serving.core.segment import Segment
from serving.core.timing import time_every_segment

if TYPE_CHECKING:
    from serving.artifacts.serving_tools import ServingTools

MEGABYTE = 1e6
HOLDING = "holding"
"""First word of the line that ``hold`` prints when it is done."""

_FIELDS = re.compile(r"^(Pss|Pss_Anon):\s+([0-9]+) kB$", re.MULTILINE)

Runner = tuple[Segment, ...]
"""The segments of one runner."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to hold a model in memory: processes, and the runners in each."""

    name: str
    processes: tuple[tuple[Runner, ...], ...]


@dataclass(frozen=True, slots=True)
class Resident:
    """The proportional set size of some processes, in bytes."""

    total: int
    anonymous: int

    @classmethod
    def of(cls, rollup: str) -> Resident:
        """Read a process's ``/proc/<pid>/smaps_rollup`` (Linux 5.4 and later).

        Raises StudyError.
        """
        found = {name: int(value) * 1024 for name, value in _FIELDS.findall(rollup)}
        try:
            return cls(found["Pss"], found["Pss_Anon"])
        except KeyError as error:
            raise StudyError(f"this kernel does not tell {error} of a process") from error

    def __add__(self, other: Resident) -> Resident:
        return Resident(self.total + other.total, self.anonymous + other.anonymous)


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """The memory of one case over all rounds, in megabytes (millions of bytes)."""

    name: str
    num_processes: int
    num_runners: int
    resident_mb: Spread
    """Proportional set size of all processes of the case together."""
    over_runtime_mb: Spread
    """Anonymous memory, less that of the runtime alone in the same round for each process."""
    disk_mb: float
    """Megabytes of weights and graphs in files, if every runner had its own."""


def cases(num_exits: int) -> tuple[Case, ...]:
    """Return all cases for a model with ``num_exits`` exits; the first is the runtime alone."""
    unit = segments.unit_segments(num_exits)
    fused = segments.fused_segments(num_exits)
    whole = tuple((each,) for each in fused)
    return (
        Case("the runtime alone", (((),),)),
        Case("unit segments", ((unit,),)),
        Case("unit and fused segments", (((*unit, *fused),),)),
        Case(f"{num_exits} whole models in one process", (whole,)),
        Case(f"{num_exits} whole models, a process each", tuple((runner,) for runner in whole)),
    )


def disk_bytes(case: Case, sizes: Mapping[Segment, int]) -> int:
    """Return the bytes of the files that the runners of ``case`` read.

    ``sizes`` are those of the unit segments' files. Within a runner a file counts once: fused
    segments are composed from it in memory.
    """
    return sum(
        sum(sizes[part] for part in {part for segment in runner for part in segment.parts})
        for process in case.processes
        for runner in process
    )


def file_sizes(catalog: Catalog, folder: Path) -> dict[Segment, int]:
    """Return the bytes of each unit segment's file."""
    return {
        segments.parse(name): (folder / entry.file).stat().st_size
        for name, entry in catalog.segments.items()
    }


def summarise(
    measured: Mapping[Case, Sequence[Resident]], sizes: Mapping[Segment, int]
) -> list[MemoryFigures]:
    """Compute the figures of each case of ``measured``, of which the first is the runtime alone.

    Each case has one entry a round.
    """
    alone = next(iter(measured.values()))
    lines = []
    for case, resident in measured.items():
        number = len(case.processes)
        pairs = zip(resident, alone, strict=True)
        lines.append(
            MemoryFigures(
                case.name,
                number,
                sum(len(process) for process in case.processes),
                resident_mb=Spread.of(each.total / MEGABYTE for each in resident),
                over_runtime_mb=Spread.of(
                    (mine.anonymous - number * runtime.anonymous) / MEGABYTE
                    for mine, runtime in pairs
                ),
                disk_mb=disk_bytes(case, sizes) / MEGABYTE,
            )
        )
    return lines


# -- measuring -----------------------------------------------------------------------------------


def measure(
    catalog: Catalog, folder: Path, runtime: str, rounds: int, say: Callable[[str], None]
) -> list[MemoryFigures]:
    """Measure every case once in each round. Raises StudyError."""
    measured: dict[Case, list[Resident]] = defaultdict(list)
    for turn in range(rounds):
        for case in cases(catalog.num_exits):
            say(f"memory: round {turn + 1} of {rounds}, {case.name}")
            measured[case].append(held(case, folder, runtime))
    return summarise(measured, file_sizes(catalog, folder))


def held(case: Case, folder: Path, runtime: str) -> Resident:
    """Measure what all processes of ``case`` hold while all of them are there.

    Raises StudyError.
    """
    with contextlib.ExitStack() as stack:
        pids = [
            stack.enter_context(_holding(process, folder, runtime)) for process in case.processes
        ]
        return sum(map(_resident_of, pids), Resident(0, 0))


@contextlib.contextmanager
def _holding(process: Sequence[Runner], folder: Path, runtime: str) -> Iterator[int]:
    """Start a process that holds these runners, warm, and yield its id. Raises StudyError."""
    command = [sys.executable, "-m", "serving", "study", "hold", str(folder), "--runtime", runtime]
    for runner in process:
        command += ["--runner", *segments.names(runner)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    give_up = threading.Timer(processes.START_TIMEOUT_S, child.kill)
    with child:
        try:
            give_up.start()
            _wait_holding(child)
            give_up.cancel()
            yield child.pid
        finally:
            give_up.cancel()
            child.kill()


def _wait_holding(child: subprocess.Popen[str]) -> None:
    assert child.stdout is not None
    said = []
    for line in child.stdout:
        if line.startswith(HOLDING):
            return
        said.append(line)
    last = "".join(said[-processes.QUOTED_LINES :])
    raise StudyError(f"a process that was to hold segments ended with {child.wait()}:\n{last}")


def _resident_of(pid: int) -> Resident:
    try:
        return Resident.of(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except OSError as error:
        raise StudyError(f"the memory of a process cannot be read: {error}") from error


# -- in the child --------------------------------------------------------------------------------


def hold(
    tools: ServingTools,
    folder: Path,
    catalog: Catalog,
    runtime: str,
    runners: Sequence[Sequence[Segment]],
    until: TextIO,
) -> None:
    """Open a runner over each of ``runners`` and keep them until ``until`` ends.

    The runners are over segments in ``folder``. All of their segments are run once at every batch
    size; then it says so on standard output.
    """
    image = np.zeros((catalog.input_height, catalog.input_width, 3), np.uint8)
    opened = [tools.open_runner(runtime, folder, None, wanted) for wanted in runners]
    for runner in opened:
        if runner.segments:
            for _ in time_every_segment(runner, image, catalog.num_exits, time.monotonic):
                pass
    print(HOLDING, flush=True)
    until.read()
    for runner in opened:
        runner.close()
