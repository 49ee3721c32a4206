"""The real server whose engine fails as a file says: ``python -m tests.e2e.faulty_server``,
settings as ever.

``FAULT`` names the file, which holds one of ``hang``, ``raise``, ``nonsense`` and ``policy``; it
goes when that has happened once. ``hang-open`` makes opening the engine hang. ``OPENED`` names a
file that is there once an engine began to be opened.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serving.composition.backend import create_backend
from serving.composition.process import serve
from serving.core.ladder import Ladder
from serving.core.latency import Latency
from serving.core.policy import Decision, Policy, Snapshot
from serving.core.ports import SegmentRunner
from serving.core.request import Detections
from serving.core.scheduling.deadline_policy import DeadlinePolicy
from serving.core.segment import Segment
from serving.models import opening, source
from serving.settings import load

SWITCH = Path(os.environ["FAULT"])
OPENED = Path(os.environ["OPENED"])

open_instances = opening.open_instances


def happens(kind: str) -> bool:
    """Whether that fault is to happen now; it does once."""
    try:
        if SWITCH.read_text() != kind:
            return False
        SWITCH.unlink()
    except FileNotFoundError:
        return False
    return True


class FaultyRunner:
    """A runner that does what the one inside does, or what the file says."""

    def __init__(self, inner: SegmentRunner) -> None:
        self._inner = inner
        self._serving = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, segment: Segment, batch: Any) -> Any:
        if happens("hang"):
            threading.Event().wait()
        if happens("raise"):
            raise RuntimeError("the device is on fire")
        return self._inner.run(segment, batch)

    def detections(self, batch: Any) -> list[Detections]:
        found = self._inner.detections(batch)
        if happens("nonsense"):
            return [replace(row, scores=np.full_like(row.scores, np.nan)) for row in found]
        return found


def open_faulty(*arguments: Any, **named: Any) -> Any:
    OPENED.touch()
    if happens("hang-open"):
        threading.Event().wait()
    return [FaultyRunner(each) for each in open_instances(*arguments, **named)]


class FaultyPolicy:
    """The policy that serves, unless the file says otherwise.

    It fails before somebody who has no answer: those who have one end with it, and nobody would
    hear of the fault.
    """

    def __init__(
        self, segments: Collection[Segment], ladder: Ladder, sizes: Sequence[int], most: int
    ) -> None:
        first, *others = ladder.accuracies
        self._inner = DeadlinePolicy(segments, first, sizes, most, others, ladder.merged)

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        if snapshot.waiting and happens("policy"):
            raise ZeroDivisionError("a defect")
        return self._inner.decide(snapshot, latency)


def create_policy(*arguments: Any) -> Policy:
    return FaultyPolicy(*arguments)


if __name__ == "__main__":
    setattr(source, "open_instances", open_faulty)  # noqa: B010  as a test would
    serve(
        load({}),
        lambda url, _: print(url, flush=True),
        partial(create_backend, create_policy=create_policy),
    )
