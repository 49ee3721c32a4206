"""Samples of what a server holds: from /proc of its processes, and from its /metrics."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from loadtest.load.accounting import server_counts
from loadtest.servers.processes import RunningServer, StudyError, get_text

PROC = Path("/proc")
INSIDE = ("waiting", "in_flight", "held")
"""Places in which a request may be inside a server, by the names of their metrics."""
_KIB = 1024
_FILES = "files"
_STATUS = re.compile(r"^(VmRSS|RssAnon|Threads):\s+([0-9]+)", re.MULTILINE)
_GAUGE = re.compile(r"^punctual_(\w+?)(?:_requests)? ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a server held at one instant, all of its processes together."""

    at_s: float
    """Instant in seconds since the load began."""
    sent: int
    """Number of requests that had been sent to it."""
    resident_bytes: int
    anonymous_bytes: int
    """Of the resident bytes those that are no file's."""
    descriptors: int
    threads: int
    tasks: int
    """Number of tasks of its event loop."""
    inside: int
    """Number of requests that wait, run, or have an answer in hand."""


def take_sample(server: RunningServer, at_s: float, sent: int, proc: Path = PROC) -> Sample:
    """Sample a server. Raises StudyError if it is not there or does not tell."""
    exposition = get_text(f"{server.url}/metrics")
    gauges = {name: float(value) for name, value in _GAUGE.findall(exposition)}
    held: Counter[str] = Counter()
    for pid in pids(server.group, proc):
        held.update(_held(proc / pid))
    try:
        return Sample(
            at_s=at_s,
            sent=sent,
            resident_bytes=_KIB * held["VmRSS"],
            anonymous_bytes=_KIB * held["RssAnon"],
            descriptors=held[_FILES],
            threads=held["Threads"],
            tasks=int(gauges["event_loop_tasks"]),
            inside=sum(int(gauges[place]) for place in INSIDE),
        )
    except KeyError as error:
        raise StudyError(f"{server.url}/metrics has no gauge of {error}") from error


def counts(server: RunningServer) -> Counter[str]:
    """Return end -> detection requests that a server has counted. Raises StudyError."""
    return server_counts(get_text(f"{server.url}/metrics"))


def pids(group: int, proc: Path = PROC) -> list[str]:
    """Return the ids of the processes of a process group, as the names of their folders."""
    found = []
    for folder in proc.iterdir():
        if folder.name.isdecimal():
            try:
                # The program's name, in parentheses, may hold anything.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            if int(fields[2]) == group:
                found.append(folder.name)
    return found


def _held(process: Path) -> Counter[str]:
    """Return what one process holds; nothing of one that has ended."""
    try:
        status = dict(_STATUS.findall((process / "status").read_text()))
        descriptors = len(os.listdir(process / "fd"))
    except OSError:
        return Counter()
    return Counter({**{name: int(value) for name, value in status.items()}, _FILES: descriptors})
