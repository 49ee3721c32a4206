"""Name of the machine that figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

GPU_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
GPU_QUERY_TIMEOUT_S = 30.0


def machine() -> str:
    """Return the processor, how many of its cores this process may use, and the first NVIDIA GPU.

    The GPU comes with its driver, if there is one.
    """
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if names:
            model = names[0].partition(":")[2].strip()
    return ", ".join((model, f"{len(os.sched_getaffinity(0))} cores", *_gpus()[:1]))


def _gpus() -> list[str]:
    """Return every NVIDIA GPU as ``name (driver version)``; none where there is no driver."""
    try:
        listed = subprocess.run(
            GPU_QUERY, capture_output=True, text=True, check=True, timeout=GPU_QUERY_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split(", ") for line in listed.stdout.splitlines())
    return [f"{name} (driver {driver})" for name, driver in rows]
