"""Promises of rates to streams: how many frames a second a server can answer beside those promised.

A frame takes a server's time: to be decoded, and in the engine, by itself, at some operating point.
Of all its time, ``PROMISED_SHARE`` is promised, by the time at the quickest point that a stream
accepts. What is left of it makes

    rate at a point = (FREE_MULTIPLE * left - the principal's own) / (FREE_MULTIPLE + 1)
                      / seconds at that point

so that nobody takes all that there is to promise; see ``fair_shares``. At a deeper point it is what
there will be time for if everybody keeps to what was promised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serving.core.errors import Overloaded, ShedReason
from serving.core.fair_shares import FREE_MULTIPLE

PROMISED_SHARE = 0.7
"""Share of a server's time that is promised. The rest is for what times vary by, for single
requests, and for all that is neither decoding nor the engine."""


class Promises:
    """The promises of one server. Not thread-safe: the event loop owns it."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}  # by principal

    def rate_hz(self, frame_s: float, principal: str = "") -> float:
        """Return the frames a second that can be promised, each of ``frame_s`` seconds."""
        left = PROMISED_SHARE - sum(self._shares.values())
        most = (FREE_MULTIPLE * left - self._shares.get(principal, 0.0)) / (FREE_MULTIPLE + 1)
        return max(0.0, most) / frame_s

    @contextmanager
    def made(self, rate_hz: float, frame_s: float, principal: str = "") -> Iterator[None]:
        """Promise a rate of frames of ``frame_s`` seconds for as long as the context lasts.

        Raises Overloaded if that is more than can be promised.
        """
        most_hz = self.rate_hz(frame_s, principal)
        if rate_hz > most_hz:
            raise Overloaded(
                f"At its quickest operating point this server can promise {most_hz:.1f} frames a "
                f"second beside what it has promised, not {rate_hz:g}.",
                ShedReason.REJECTED_SATURATED,
            )
        share = rate_hz * frame_s
        self._shares[principal] = self._shares.get(principal, 0.0) + share
        try:
            yield
        finally:
            self._shares[principal] -= share
            if self._shares[principal] <= _ROUNDING:
                del self._shares[principal]


_ROUNDING = 1e-9
"""Share below which nothing is left but errors of rounding."""
