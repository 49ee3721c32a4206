"""Principals: on whose behalf requests come, and what each may have of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody on whose behalf requests come: the holder of a key, or of an address."""

    name: str
    """Name that no other principal of the server has."""
    label: str
    """Name under which it is counted. Addresses are no labels: there is no bound on them."""
    share: float = 1.0
    """Weight of its requests where there is not enough for all: twice the share, twice the time."""
    rate_hz: float | None = None
    """Requests a second that it may send for long; None for as many as it likes."""
    max_requests: int | None = None
    """Detection requests that it may have inside at once; None if the server's bound is its."""
    min_budget_s: float = 0.0
    """Smallest budget that it may state, in seconds."""
    is_admin: bool = False
    """Whether it may see metrics and documentation, and change what is served."""


NOBODY = Principal("", "everybody")
"""Principal of all requests, where nobody asks on whose behalf they come."""
