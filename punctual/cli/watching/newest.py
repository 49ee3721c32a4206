"""A place for one frame: what comes while another waits there takes its place."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a source."""

    number: int
    """Counted from 1, over all frames that the source had for us."""
    at_s: float
    """Seconds into the source at which it was there."""
    data: bytes
    """An image file."""


class NewestFrame:
    """The newest frame that nobody has taken. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frame: Frame | None = None
        self._last_taken = 0

    def put(self, frame: Frame) -> bool:
        """Put a frame there; returns whether none was there before."""
        with self._lock:
            was_empty = self._frame is None
            self._frame = frame
            return was_empty

    def take(self) -> tuple[Frame | None, range]:
        """Take the frame, if there is one, and the numbers of those before it that nobody took."""
        with self._lock:
            frame, self._frame = self._frame, None
            if frame is None:
                return None, range(0)
            skipped = range(self._last_taken + 1, frame.number)
            self._last_taken = frame.number
            return frame, skipped
