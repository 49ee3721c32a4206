"""What became of every frame, and the figures of the last seconds and of all."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass

from punctual.cli.watching.newest import Frame
from punctual.problems import Problem
from punctual.reply import ANSWERED, Reply

SUPERSEDED = "superseded"
SKIPPED = "skipped"
"""Of a frame that was never sent: a newer one was there before it could be."""
LOST = "lost"
"""Of a frame whose connection ended before the server said what became of it."""

WINDOW_S = 10.0
MAX_ENTRIES = 2048
"""Most ends that are remembered one by one: of the last ``WINDOW_S``, at 200 frames a second."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One frame that was sent, and what it ended with."""

    frame: Frame
    outcome: str
    """``answered``, ``superseded``, ``lost`` or a problem's slug."""
    ended_s: float
    """Instant of the end, by the caller's clock."""
    age_s: float
    """From sending the frame to its end."""
    reply: Reply | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of the frames of some time."""

    on_time: float | None
    """Share of answered frames among those that the server took on, 0..1; None of none."""
    answered_hz: float
    age_s: float | None
    """Half of the answers were younger when they were there."""
    points: tuple[tuple[str, float], ...]
    """Operating points by their share of the answers, the most frequent first."""


class Ledger:
    """Counts of all frames by outcome, and the latest ends one by one."""

    def __init__(self, started_s: float) -> None:
        self.outcomes: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.latest: Reply | None = None
        self._started_s = started_s
        self._recent: deque[Ended] = deque(maxlen=MAX_ENTRIES)

    def add(self, ended: Ended) -> None:
        """Count one frame that was sent."""
        self.outcomes[ended.outcome] += 1
        self._recent.append(ended)
        if ended.reply is not None:
            self.points[ended.reply.operating_point] += 1
            self.latest = ended.reply

    def skip(self, count: int) -> None:
        """Count frames that were not sent."""
        if count:
            self.outcomes[SKIPPED] += count

    @property
    def num_frames(self) -> int:
        """Frames of the source so far that have ended."""
        return self.outcomes.total()

    @property
    def on_time(self) -> float | None:
        """Share of answered frames, of all that the server took on; None of none."""
        return _on_time(self.outcomes)

    def recent(self, now_s: float) -> Figures:
        """Return the figures of the last ``WINDOW_S``, or of the time since the start."""
        ends = list(self._since(now_s - WINDOW_S))
        replies = [each for each in ends if each.reply is not None]
        points = Counter(each.reply.operating_point for each in replies if each.reply is not None)
        span_s = min(WINDOW_S, max(1.0, now_s - self._started_s))
        ages = sorted(each.age_s for each in replies)
        return Figures(
            on_time=_on_time(Counter(each.outcome for each in ends)),
            answered_hz=len(replies) / span_s,
            age_s=ages[len(ages) // 2] if ages else None,
            points=tuple((point, n / len(replies)) for point, n in points.most_common()),
        )

    def used(self, count: int) -> list[float | None]:
        """Return the shares of their budgets that the last ``count`` frames used, the newest last.

        It is None of those that got no answer.
        """
        return [
            None if e.reply is None else e.reply.timings.elapsed_ms / e.reply.timings.budget_ms
            for e in list(self._recent)[-count:]
            if e.outcome != SUPERSEDED
        ]

    def _since(self, start_s: float) -> Iterator[Ended]:
        return (each for each in self._recent if each.ended_s >= start_s)


def _on_time(outcomes: Counter[str]) -> float | None:
    taken_on = outcomes.total() - outcomes[SUPERSEDED] - outcomes[SKIPPED]
    return outcomes[ANSWERED] / taken_on if taken_on else None
