"""Faults of an engine for drills: a gateway that suffers from one on demand.

A file names the fault; a gateway that is drilled reads it before each decision. The time that the
fault takes counts as the engine's for predictions, for metrics, and for waiting requests.

    stuck      nothing goes on until the file says something else: a call that does not return
    erratic    three turns in ten take up to ERRATIC_S longer: a neighbour on the same cores
    leak       each turn keeps some memory for good, some turns a file or a thread as well
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from serving.core.latency import Latency
from serving.core.policy import Decision, Policy, Snapshot
from serving.core.ports import CreatePolicy

STUCK, ERRATIC, LEAK = FAULTS = ("stuck", "erratic", "leak")
ERRATIC_SHARE = 0.3
ERRATIC_S = 0.4
LEAKED_BYTES = 1000
"""Bytes that each turn keeps."""
LEAKS_FILE_EVERY, LEAKS_THREAD_EVERY = 50, 100
"""Number of turns after which one more file stays open, and one more thread waits for ever."""
POLL_S = 0.01

Sleep = Callable[[float], None]


class FaultyPolicy:
    """A policy that decides as ``policy``, if the fault that ``file`` names lets it."""

    def __init__(
        self, policy: Policy, file: Path, sleep: Sleep = time.sleep, seed: int = 0
    ) -> None:
        self._policy = policy
        self._file = file
        self._sleep = sleep
        self._rng = random.Random(seed)
        self._leaked: list[bytes] = []
        self._leaked_files: list[BinaryIO] = []

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Decide as ``Policy.decide``, but neither purely nor quickly."""
        while (fault := self._fault()) == STUCK:
            self._sleep(POLL_S)
        if fault == ERRATIC and self._rng.random() < ERRATIC_SHARE:
            self._sleep(self._rng.uniform(0.0, ERRATIC_S))
        if fault == LEAK:
            self._leak()
        return self._policy.decide(snapshot, latency)

    def _leak(self) -> None:
        self._leaked.append(bytes(LEAKED_BYTES))
        if len(self._leaked) % LEAKS_FILE_EVERY == 0:
            self._leaked_files.append(self._file.open("rb"))
        if len(self._leaked) % LEAKS_THREAD_EVERY == 0:
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    def _fault(self) -> str:
        try:
            return self._file.read_text().strip()
        except FileNotFoundError:
            return ""


def faulty(factory: CreatePolicy, file: Path) -> CreatePolicy:
    """Return a maker of the policies of ``factory`` that suffer from what ``file`` says."""
    return lambda available, ladder, batch_sizes, max_cohorts: FaultyPolicy(
        factory(available, ladder, batch_sizes, max_cohorts), file
    )
