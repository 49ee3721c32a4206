"""The vocabulary of scheduling: what a policy sees, and what it may answer.

A policy is a pure function from a snapshot to a decision; the executor carries decisions out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from serving.core.errors import ShedReason
from serving.core.request import Request
from serving.core.segment import Segment


class Latency(Protocol):
    """Predicted seconds of one run of a segment at a batch size."""

    def predict(self, segment: Segment, batch: int) -> float:
        """A time that a run seldom exceeds."""

    def typical(self, segment: Segment, batch: int) -> float:
        """A time that half of the runs do not exceed."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """Requests whose features are on the device, at one depth, as rows of one batch."""

    id: int
    depth: int
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a decision depends on but the latency model."""

    now_s: float
    waiting: tuple[Request, ...]
    """By deadline, then by id."""
    cohorts: tuple[Cohort, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Run ``segment`` for ``requests``: all or some rows of ``cohort``, or waiting requests."""

    segment: Segment
    requests: tuple[Request, ...]
    cohort: int | None


@dataclass(frozen=True, slots=True)
class ShedRequests:
    """End these without an answer."""

    requests: tuple[Request, ...]
    reason: ShedReason
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something arrives."""


Decision = Run | ShedRequests | Wait


class Policy(Protocol):
    """Chooses what an idle executor does next."""

    def decide(self, snapshot: Snapshot, latency: Latency) -> Decision:
        """Pure: the same arguments give the same decision."""
