"""A trial of a version of a model, in a process of its own, before it may serve.

    python -m serving.models.trial        a TrialJob comes on the standard input, a Trial goes out

It compiles what is to be compiled into the cache that both processes share, and runs everything on
an image that is known, so that a version which crashes, takes too much memory or talks nonsense
does so there. Beside a model that serves it keeps out of the way.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from serving.core.command_errors import CommandError
from serving.core.family import Family
from serving.core.ports import Clock, Image, SegmentRunner
from serving.core.scheduling.paths import paths_of
from serving.imaging.decoding import load_image, refit
from serving.models.opening import open_instances
from serving.models.precision import settle_precision
from serving.models.repository import read_family
from serving.models.runtime_options import RuntimeOptions
from serving.system.low_priority import lower_priority
from serving.system.memory import resident_bytes
from serving.system.parent import end_with_parent

LOOK_EVERY_S = 0.05
"""Seconds between two looks at how much memory a trial takes."""
TRIAL_WITHIN_S = 900.0
"""Seconds that a trial may take: compiling takes a minute on a machine of its own, and many times
that beside one that serves all it can."""
MEGABYTE = 2**20


class TrialFailed(CommandError):
    """Error of a version that cannot serve; the message is a sentence that says why."""


@dataclass(frozen=True)
class TrialJob:
    """What to try, as it would serve."""

    folders: tuple[Path, ...]
    options: RuntimeOptions
    low_priority: bool
    """Whether somebody is served meanwhile."""


@dataclass(frozen=True)
class Trial:
    """What came of a trial: what the version is to be served in, or what speaks against it."""

    precision: str | None = None
    reason: str | None = None
    """Why in that precision, where it was chosen."""
    failure: str | None = None


# ---- this side ----------------------------------------------------------------------------------


def try_version(
    job: TrialJob,
    max_bytes: int,
    clock: Clock = time.monotonic,
    command: tuple[str, ...] = (sys.executable, "-m", __name__),
) -> Trial:
    """Return what a version is to be served in, once it has passed its trial.

    Raises TrialFailed, also when it takes more than ``max_bytes`` of memory.
    """
    give_up_s = clock() + TRIAL_WITHIN_S
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            output = _watched(process, pickle.dumps(job), max_bytes, clock, give_up_s)
        finally:
            process.kill()
    if process.returncode != 0 or not output:
        raise TrialFailed(f"its trial ended with {process.returncode}, as if it had crashed")
    trial = Trial(**json.loads(output))
    if trial.failure is not None:
        raise TrialFailed(trial.failure)
    return trial


def _watched(
    process: subprocess.Popen[bytes], job: bytes, max_bytes: int, clock: Clock, give_up_s: float
) -> bytes:
    """Return what the process says, once it has ended by itself. Raises TrialFailed."""
    unsent: bytes | None = job
    while True:
        try:
            return process.communicate(unsent, timeout=LOOK_EVERY_S)[0]
        except subprocess.TimeoutExpired:
            unsent = None  # it goes on with what it was given first
            taken = resident_bytes(process.pid)
        if taken > max_bytes:
            raise TrialFailed(
                f"it takes more than the {max_bytes // MEGABYTE} megabytes of memory that there "
                "are for a second version"
            )
        if clock() > give_up_s:
            raise TrialFailed(f"its trial was not over after {TRIAL_WITHIN_S:g} s")


# ---- the other side -----------------------------------------------------------------------------


def run_trial(job: TrialJob, clock: Clock = time.monotonic) -> Trial:
    """Compile a version, run it, and look at what it answers. Raises TrialFailed, CommandError."""
    options, reason = settle_precision(job.folders, job.options, clock)
    family = read_family(job.folders, options.precision)
    runner, *others = open_instances(job.folders, options, refit, only_paying=True)
    for image in trial_images(family):
        for path, found in _answers(runner, image):
            fault = family.find_fault(found)
            if fault is not None:
                raise TrialFailed(f"what {path} answers makes no sense: {fault}")
    for each in (runner, *others):
        each.close()
    return Trial(options.precision, reason)


def trial_images(family: Family) -> Iterator[Image]:
    """Yield a photograph and noise, in the common frame of ``family``."""
    photograph = (files("serving") / "ui" / "coffee.jpg").read_bytes()
    yield load_image(photograph, family.input)[0]
    shape = (family.input_height, family.input_width, 3)
    yield np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _answers(runner: SegmentRunner, image: Image) -> Iterator[tuple[str, Any]]:
    """Yield what each path to each exit of each model makes of an image, and the path's name."""
    for paths in paths_of(runner.segments):
        for depth in range(1, paths.num_exits + 1):
            for path in paths.to(depth):
                batch = runner.load([image])
                for segment in path:
                    output = runner.run(segment, batch)
                    runner.release(batch)
                    batch = output
                (found,) = runner.detections(batch)
                runner.release(batch)
                yield path[-1].name, found


def main(run_trial: Callable[[TrialJob], Trial] = run_trial) -> None:
    """Try what comes on the standard input, and say on the standard output what came of it."""
    output = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    job: TrialJob = pickle.load(sys.stdin.buffer)
    end_with_parent()
    if job.low_priority:
        lower_priority()
    try:
        trial = run_trial(job)
    except Exception as error:  # it is for the other side to say what becomes of it
        trial = Trial(failure=str(error) or repr(error))
    with open(output, "w", encoding="utf-8") as file:
        json.dump(asdict(trial), file)
    sys.stderr.flush()
    os._exit(0)  # whatever threads a runtime has left


if __name__ == "__main__":
    main()
