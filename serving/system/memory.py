"""Memory that a process has, and that there is for another: as the kernel says."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
"""Where a container sees the bounds that it was given."""


def resident_bytes(pid: int, proc: Path = PROC) -> int:
    """Return the bytes that process ``pid`` has in memory, files it has mapped included.

    0 if it has ended.
    """
    try:
        pages = int((proc / str(pid) / "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Return the bytes that more may be taken of, on this machine and in this container.

    What the kernel keeps of files and could let go is not counted as taken. None where it does not
    say.
    """
    left = [each for each in (_of_machine(proc), _of_container(cgroup)) if each is not None]
    return min(left, default=None)


def _of_machine(proc: Path) -> int | None:
    with suppress(OSError, ValueError, KeyError):
        return _fields(proc / "meminfo")["MemAvailable:"] * 1024
    return None


def _of_container(cgroup: Path) -> int | None:
    """Return what is left of the bound of this control group (version 2); None without one."""
    with suppress(OSError, ValueError, KeyError):
        most = int((cgroup / "memory.max").read_text())  # ValueError: "max", which is none
        taken = int((cgroup / "memory.current").read_text())
        return max(0, most - taken + _fields(cgroup / "memory.stat")["inactive_file"])
    return None


def _fields(path: Path) -> dict[str, int]:
    """Return the first number behind each name in a file of lines. Raises OSError, ValueError."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}
