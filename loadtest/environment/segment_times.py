"""Measurement of how long segments take on this machine now, in a process that then ends.

Rounds are interleaved: each runs every segment once at every batch size, so that a busy moment
falls on all alike. ``punctual profile`` measures the same for catalogues; this is for a study that
wants to know now, and nothing of the runtime in its own process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from loadtest.servers.processes import QUOTED_LINES, SETTING_PREFIX, StudyError
from reporting.machine import machine
from serving.artifacts.serving_tools import ServingTools
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.model_entry import ModelEntry
from serving.core.ports import Clock
from serving.core.quantiles import quantile
from serving.core.segment import Segment
from serving.core.timing import time_every_segment

WARM_UP_ROUNDS = 5
COMMAND = ("study", "segments")
_TAIL, _MEDIAN = -math.log1p(-0.9), math.log(2.0)


def measure_segments(
    tools: ServingTools, folder: Path, entry: ModelEntry, runtime: str, rounds: int, clock: Clock
) -> LatencyProfile:
    """Time every segment of every input size in ``folder``.

    Each is timed ``rounds`` times at each batch size.
    """
    seen: defaultdict[tuple[Segment, int], list[float]] = defaultdict(list)
    rng = np.random.default_rng(0)
    with contextlib.ExitStack() as stack:
        sizes = []
        for catalog in entry.catalogs:
            runner = tools.open_runner(runtime, folder, None, size=catalog.size)
            stack.callback(runner.close)
            shape = (catalog.input_height, catalog.input_width, 3)
            noise = rng.integers(0, 256, shape, dtype=np.uint8)
            sizes.append((runner, noise, catalog.num_exits))
        name = sizes[0][0].runtime
        for turn in range(WARM_UP_ROUNDS + rounds):
            for model, size in enumerate(sizes):
                for segment, batch, seconds in time_every_segment(*size, clock):
                    if turn >= WARM_UP_ROUNDS:
                        seen[segment.of(model), batch].append(seconds)
    table = {
        key: Quantiles(*(quantile(values, q) for q in (0.5, 0.9, 0.99)))
        for key, values in seen.items()
    }
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return LatencyProfile(name, machine(), date, len(os.sched_getaffinity(0)), table)


def segments_now(folder: Path, runtime: str, rounds: int) -> LatencyProfile:
    """Time every segment in ``folder`` in a process of its own. Raises StudyError."""
    command = (sys.executable, "-m", "serving", *COMMAND, str(folder))
    further = ("--runtime", runtime, "--rounds", str(rounds))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(SETTING_PREFIX)}
    done = subprocess.run(
        (*command, *further), env=inherited, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = "\n  ".join(done.stderr.splitlines()[-QUOTED_LINES:])
        raise StudyError(f"segments could not be timed ({done.returncode}):\n  {last}")
    return LatencyProfile.from_json(json.loads(done.stdout.splitlines()[-1]))


def slowed(profile: LatencyProfile, factor: float) -> LatencyProfile:
    """Return ``profile`` as of a machine on which everything takes ``factor`` times as long."""
    table: Mapping[tuple[Segment, int], Quantiles] = {
        key: Quantiles(factor * q.p50_s, factor * q.p90_s, factor * q.p99_s)
        for key, q in profile.table.items()
    }
    return LatencyProfile(profile.runtime, profile.machine, profile.date, profile.threads, table)


def jitter_of(profile: LatencyProfile) -> float:
    """Return the jitter for ``simulator.ServiceTimes`` that the profile's 90th percentiles suggest.

    With jitter j, p90 / p50 = (1 + j ln 10) / (1 + j ln 2). The ratio is a median over all
    segments, and the jitter at most 1.
    """
    ratios = [q.p90_s / q.p50_s for q in profile.table.values()]
    ratio = min(quantile(ratios, 0.5), (1 + _TAIL) / (1 + _MEDIAN))
    return max(0.0, (ratio - 1) / (_TAIL - ratio * _MEDIAN))
