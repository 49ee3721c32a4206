"""Segments: the pieces of a detector that an executor can run in one go.

    image --stem--> depth 0 --stack_1--> depth 1 --stack_2--> ... --stack_N--> depth N
                                            |                                     |
                                          head_1                                head_N
                                            v                                     v
                                          boxes                                 boxes

A *unit* segment covers one arrow; the *fused* segment ``exit_k`` covers the whole path from the
image to the boxes of exit k, which is cheaper but cannot be stopped on the way.

Where several models are served as one, each has such segments, told apart by ``model``; ``of``
turns those of the first into those of another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

IMAGE = -1
"""Value of ``start`` of a segment that takes images; every other start is the depth of its
features."""

FEATURE_RANK = 4
"""Number of dimensions of feature maps, (B, C, H, W). Images and detections have fewer, or elements
of another type."""


class Segment(NamedTuple):
    """A piece of a detector that runs in one go, from depth ``start`` to depth ``stop``.

    It takes the image (``start`` is ``IMAGE``) or features; with ``head`` it goes on to final
    boxes. A tuple, since policies look times up by segments, and a tuple is hashed in a tenth of
    the time of a dataclass.
    """

    start: int
    stop: int
    head: bool
    model: int = 0

    @property
    def kind(self) -> str:
        """Kind of segment: ``stem``, ``stack``, ``head`` or ``exit``."""
        if self.start == IMAGE:
            return "exit" if self.head else "stem"
        return "head" if self.head else "stack"

    @property
    def name(self) -> str:
        """Name of the segment: ``stem``, ``stack_k``, ``head_k`` or ``exit_k``.

        Of model m, beyond the first, it is ``stem@m`` and so on.
        """
        name = self.kind if self.kind == "stem" else f"{self.kind}_{self.stop}"
        return f"{name}@{self.model}" if self.model else name

    def of(self, model: int) -> Segment:
        """Return the same segment of another model."""
        return self if model == self.model else self._replace(model=model)

    @property
    def parts(self) -> tuple[Segment, ...]:
        """Unit segments that it is made of, in their order; itself, if it is one."""
        if self.start == IMAGE and self.head:
            return tuple(part.of(self.model) for part in unit_path(self.stop))
        return (self,)


STEM = Segment(IMAGE, 0, head=False)
"""Unit segment from the image to the features of depth 0."""

# Remembered, since policies name segments more often than anything else.


@lru_cache(maxsize=256)
def stack(depth: int) -> Segment:
    """Return the unit segment that takes features from ``depth - 1`` to ``depth``."""
    return Segment(depth - 1, depth, head=False)


@lru_cache(maxsize=256)
def head(depth: int) -> Segment:
    """Return the unit segment that turns the features of ``depth`` into boxes."""
    return Segment(depth, depth, head=True)


@lru_cache(maxsize=256)
def fused_exit(depth: int) -> Segment:
    """Return the fused segment from the image to the boxes of exit ``depth``."""
    return Segment(IMAGE, depth, head=True)


_NUMBERED: dict[str, Callable[[int], Segment]] = {"stack": stack, "head": head, "exit": fused_exit}
_NAME = re.compile(r"(?:stem|(stack|head|exit)_([1-9][0-9]*))(?:@([1-9][0-9]*))?")


def parse(name: str) -> Segment:
    """Return the segment called ``name``. Raises ValueError for any other text."""
    matched = _NAME.fullmatch(name)
    if matched is None:
        raise ValueError(f"not a segment name: {name!r} (stem, stack_K, head_K or exit_K)")
    kind, depth, model = matched.groups()
    segment = _NUMBERED[kind](int(depth)) if kind else STEM
    return segment.of(int(model)) if model else segment


def unit_segments(num_exits: int) -> tuple[Segment, ...]:
    """Return stem, stacks and heads of a detector with ``num_exits`` exits, in that order."""
    depths = range(1, num_exits + 1)
    return (STEM, *map(stack, depths), *map(head, depths))


def fused_segments(num_exits: int) -> tuple[Segment, ...]:
    """Return the fused segment of every exit, shallowest first."""
    return tuple(map(fused_exit, range(1, num_exits + 1)))


def every_segment(num_exits: int) -> tuple[Segment, ...]:
    """Return all unit and fused segments of a detector with ``num_exits`` exits."""
    return (*unit_segments(num_exits), *fused_segments(num_exits))


def unit_path(depth: int) -> tuple[Segment, ...]:
    """Return the unit segments that a request runs through to leave at ``depth``."""
    return (STEM, *map(stack, range(1, depth + 1)), head(depth))


def names(segments: Iterable[Segment]) -> tuple[str, ...]:
    """Return the names of ``segments``, in their order."""
    return tuple(segment.name for segment in segments)
