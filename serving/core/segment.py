"""Segments: the pieces of a detector that an executor can run in one go.

    image --stem--> depth 0 --stack_1--> depth 1 --stack_2--> ... --stack_N--> depth N
                                            |                                     |
                                          head_1                                head_N
                                            v                                     v
                                          boxes                                 boxes

A *unit* segment covers one arrow; the *fused* segment ``exit_k`` covers the whole path from the
image to the boxes of exit k, which is cheaper but cannot be stopped on the way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

IMAGE = -1
"""The ``start`` of a segment that takes images; every other start is the depth of its features."""


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """From the image (``IMAGE``) or the features of depth ``start`` to depth ``stop``; with
    ``head``, on to final boxes."""

    start: int
    stop: int
    head: bool

    @property
    def name(self) -> str:
        """``stem``, ``stack_k``, ``head_k`` or ``exit_k``."""
        if self.start == IMAGE:
            return f"exit_{self.stop}" if self.head else "stem"
        return f"head_{self.stop}" if self.head else f"stack_{self.stop}"

    @property
    def parts(self) -> tuple[Segment, ...]:
        """The unit segments that it is made of, in their order; itself, if it is one."""
        fused = self.start == IMAGE and self.head
        return unit_path(self.stop) if fused else (self,)


STEM = Segment(IMAGE, 0, head=False)


def stack(depth: int) -> Segment:
    """The unit segment that takes features from ``depth - 1`` to ``depth``."""
    return Segment(depth - 1, depth, head=False)


def head(depth: int) -> Segment:
    """The unit segment that turns the features of ``depth`` into boxes."""
    return Segment(depth, depth, head=True)


def fused_exit(depth: int) -> Segment:
    """The fused segment from the image to the boxes of exit ``depth``."""
    return Segment(IMAGE, depth, head=True)


_NUMBERED: dict[str, Callable[[int], Segment]] = {"stack": stack, "head": head, "exit": fused_exit}
_NAME = re.compile(r"(stack|head|exit)_([1-9][0-9]*)")


def parse(name: str) -> Segment:
    """The segment called ``name``. Raises ValueError for any other text."""
    if name == "stem":
        return STEM
    matched = _NAME.fullmatch(name)
    if matched is None:
        raise ValueError(f"not a segment name: {name!r} (stem, stack_K, head_K or exit_K)")
    return _NUMBERED[matched[1]](int(matched[2]))


def unit_segments(num_exits: int) -> tuple[Segment, ...]:
    """Stem, stacks and heads of a detector with ``num_exits`` exits, in that order."""
    depths = range(1, num_exits + 1)
    return (STEM, *map(stack, depths), *map(head, depths))


def fused_segments(num_exits: int) -> tuple[Segment, ...]:
    """The fused segment of every exit, shallowest first."""
    return tuple(map(fused_exit, range(1, num_exits + 1)))


def every_segment(num_exits: int) -> tuple[Segment, ...]:
    """All unit and fused segments of a detector with ``num_exits`` exits."""
    return (*unit_segments(num_exits), *fused_segments(num_exits))


def unit_path(depth: int) -> tuple[Segment, ...]:
    """The unit segments that a request runs through to leave at ``depth``."""
    return (STEM, *map(stack, range(1, depth + 1)), head(depth))


def names(segments: Iterable[Segment]) -> tuple[str, ...]:
    """The names of ``segments``, in their order."""
    return tuple(segment.name for segment in segments)
