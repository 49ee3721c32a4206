"""The wire format between gateway and Triton: names of tensors and parameters, and errors as text.

A model ``<model>_anytime`` takes three kinds of request over one stream:

    image, timeout, ...              boxes, and how they came about; or an error
    command = status                 what the executor predicts and how busy it is
    command = cancel, target = id    nothing; the request with that id leaves at the next boundary
    command = conclude, target = id  the same, but it leaves with the answer it has, if any

A stream carries errors as a sentence only, so what a program needs to know stands at its end, in
brackets: ``The server's queue is full. [overloaded rejected-saturated 12000us]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from serving.core.errors import (
    BackendError,
    BackendUnavailable,
    EngineLost,
    EngineStalled,
    FrameSuperseded,
    InvalidParameter,
    InvalidRequest,
    Overloaded,
    RequestCancelled,
    ServingError,
    ShedReason,
)

# Tensors of <model>_anytime.
IMAGE = "image"  # uint8 (H, W, 3)
BOXES = "boxes"  # float32 (N, 4), pixels of the model's input
SCORES = "scores"  # float32 (N,)
LABELS = "labels"  # int32 (N,)
EXIT_DEPTH = "exit_depth"  # int32 (1,)
OPERATING_POINT = "operating_point"  # int32 (2 N,): number of the size, depth; then those of the
# earlier answers that were merged in, in the order of their runs
TIMES = "times_us"  # int64 (3,): in the queue, in segments, predicted for those segments
STATUS = "status"  # int64: ``EngineStatus.to_numbers``

# Tensors of <model>_d1 .. <model>_dN; their first dimension is the batch.
IMAGES = "images"
COUNTS = "counts"  # int32: how many rows of boxes, scores and labels are meant

# Parameters of a request. Triton's own are ``timeout``, the budget in microseconds, and
# ``EMPTY_FINAL``, which asks to be told of the end by a response without outputs.
EMPTY_FINAL = "triton_enable_empty_final_response"
FINAL = "triton_final_response"  # parameter of a response: whether it is the last
MIN_DEPTH = "min_depth"
MAX_DEPTH = "max_depth"
EVERY_EXIT = "every_exit"
ANSWERS_IN_HAND = "answers_in_hand"  # asks for each answer that a better one may follow
CANCEL_BY_ID = "cancel_by_id"
PRINCIPAL = "principal"  # name of whom it is for
SHARE_THOUSANDTHS = "share_thousandths"  # weight of that principal where engine time is short
STREAM = "stream"  # name of the principal's stream that it is a frame of
PROMISED = "promised"  # whether that stream sends no more than it was promised
IN_HAND_RESERVE_US = "in_hand_reserve_us"  # how long before the deadline an answer in hand is sent
COMMAND = "command"
TARGET = "target"
COMMAND_STATUS = "status"
COMMAND_CANCEL = "cancel"
COMMAND_CONCLUDE = "conclude"

MICROSECONDS = 1_000_000
_DIGEST_DIGITS = 15  # as many hexadecimal digits as an int64 holds


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The state of an executor: what it serves, how busy it is, and what it predicts."""

    digest: int
    """Digest of the entry that it serves, as ``short_digest`` has it."""
    num_waiting: int
    num_in_flight: int
    num_held: int
    exits_s: tuple[float, ...]
    """Seconds that an idle engine typically takes from an image to each operating point, by size,
    then depth, as predicted."""
    tails_s: tuple[float, ...]
    """Seconds that the engine, as it is now, seldom exceeds to each of them: as many."""

    def to_numbers(self) -> list[int]:
        """Return the status as integers; times are in microseconds."""
        exits = (round(seconds * MICROSECONDS) for seconds in (*self.exits_s, *self.tails_s))
        return [self.digest, self.num_waiting, self.num_in_flight, self.num_held, *exits]

    @classmethod
    def from_numbers(cls, numbers: list[int]) -> EngineStatus:
        """Return the status that ``to_numbers`` made these of. Raises ValueError."""
        digest, num_waiting, num_in_flight, num_held, *exits = numbers
        seconds, num_exits = tuple(us / MICROSECONDS for us in exits), len(exits) // 2
        if len(exits) % 2:
            raise ValueError(f"{len(exits)} times are not two of each exit")
        exits_s, tails_s = seconds[:num_exits], seconds[num_exits:]
        return cls(digest, num_waiting, num_in_flight, num_held, exits_s, tails_s)


def short_digest(digest: str) -> int:
    """Return the start of a model's digest, as a number."""
    return int(digest[:_DIGEST_DIGITS], 16)


# -- errors --------------------------------------------------------------------------------------

_TAG = re.compile(r"(?P<detail>.*) \[(?P<slug>[a-z-]+)(?: (?P<reason>[a-z-]+) (?P<us>[0-9]+)us)?\]")

_PLAIN: dict[str, Callable[[str], ServingError]] = {
    kind.slug: kind
    for kind in (
        InvalidRequest,
        InvalidParameter,
        RequestCancelled,
        FrameSuperseded,
        BackendError,
        BackendUnavailable,
        EngineLost,
        EngineStalled,
    )
}
"""Kinds of errors that carry nothing but a sentence, by slug."""


def error_to_text(error: ServingError) -> str:
    """Return one line that a person can read, and ``error_from_text`` as well."""
    if isinstance(error, Overloaded):
        after_us = round(error.retry_after_s * MICROSECONDS)
        return f"{error.detail} [{error.slug} {error.reason} {after_us}us]"
    return f"{error.detail} [{error.slug}]"


def error_from_text(text: str) -> ServingError:
    """Return the error that ``text`` carries.

    What Triton says of its own accord (no such model, wrong shape, a dead process) means that the
    engine cannot be had as things are.
    """
    matched = _TAG.fullmatch(text)
    if matched is None:
        return BackendUnavailable(f"Triton refused: {text}")
    if matched["slug"] == Overloaded.slug and matched["us"] is not None:
        try:
            reason = ShedReason(matched["reason"])
        except ValueError:
            return BackendError(text)
        return Overloaded(matched["detail"], reason, int(matched["us"]) / MICROSECONDS)
    return _PLAIN.get(matched["slug"], BackendError)(matched["detail"])
