"""A token bucket: how much may be had now, if no more than a rate may be had for long."""

from __future__ import annotations


class TokenBucket:
    """A bucket that ``rate_hz`` tokens a second flow into, until there are ``burst`` in it."""

    __slots__ = ("_burst", "_filled_s", "_rate_hz", "_tokens")

    def __init__(self, rate_hz: float, burst: float, now_s: float) -> None:
        """Make a bucket that is full at ``now_s``."""
        self._rate_hz = rate_hz
        self._burst = burst
        self._tokens = burst
        self._filled_s = now_s

    def wait_s(self, now_s: float, tokens: float = 0.0) -> float:
        """Return the seconds from ``now_s`` until there are ``tokens``, or any at all; 0 if so."""
        missing = tokens - self._fill(now_s)
        return max(0.0, missing / self._rate_hz)

    def take(self, now_s: float, tokens: float = 1.0) -> None:
        """Take ``tokens``, which may leave a debt."""
        self._tokens = self._fill(now_s) - tokens

    def _fill(self, now_s: float) -> float:
        """Return the tokens that there are at ``now_s``."""
        flowed = max(0.0, now_s - self._filled_s) * self._rate_hz
        self._tokens = min(self._burst, self._tokens + flowed)
        self._filled_s = max(self._filled_s, now_s)
        return self._tokens
