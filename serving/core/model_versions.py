"""Versions of one model that are there at once: what each is for, and what is asked of one."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MIN_SHARE = 0.001
"""Smallest share of the requests that a canary may answer."""


class Role(str, enum.Enum):
    """What a version is there for."""

    CURRENT = "current"
    """It answers."""
    CANARY = "canary"
    """It answers a share of the requests, beside the current one."""
    SHADOW = "shadow"
    """It answers again what the current one has answered, for comparison."""

    __str__ = str.__str__


@dataclass(frozen=True)
class LoadOptions:
    """What an admin wants of a version that is to be loaded."""

    share: float | None = None
    """Share of the requests that it is to answer, as a canary; None: all of them."""
    shadow: bool = False
    """Whether it is to answer none of them, but again what another has answered."""
    again: bool = False
    """Whether it is to be loaded though it is there already."""

    @property
    def role(self) -> Role:
        """Role of the version."""
        if self.shadow:
            return Role.SHADOW
        return Role.CURRENT if self.share is None else Role.CANARY


@dataclass(frozen=True)
class VersionFacts:
    """What can be said of a version that is there."""

    name: str
    version: str
    """What its author calls it."""
    release: str
    """What tells it from others; see ``Family.release``."""
    digest: str
    role: Role
    share: float
    """Share of the requests that go to it."""
    ready: bool
    num_inside: int
    """Number of requests that it has and has not ended."""
