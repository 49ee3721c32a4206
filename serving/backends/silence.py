"""For how long nothing was heard of another process, of the time in which one could hear."""

from __future__ import annotations

from serving.core.ports import Clock


class Silence:
    """The silence of somebody who is asked again and again.

    Where whoever asks stood still, the answers that came meanwhile are yet to be read: beyond the
    seconds between two questions, nothing counts as silence. Not thread-safe.
    """

    def __init__(self, clock: Clock, every_s: float) -> None:
        """Make one of nobody who has been silent; a question is due every ``every_s`` seconds."""
        self._clock = clock
        self._every_s = every_s
        self._asked_s = self._heard_s = clock()

    def asked(self) -> None:
        """Note that a question is on its way."""
        now_s = self._clock()
        self._heard_s = now_s - self.seconds
        self._asked_s = now_s

    def heard(self) -> None:
        """Note that an answer was there."""
        self._heard_s = self._clock()

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return max(0.0, min(self._clock(), self._asked_s + self._every_s) - self._heard_s)
