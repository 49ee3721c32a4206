"""Frames of streams inside the server: whose turn it is, and who is told that it is superseded.

``core.streams`` says who may go on; here those who may not are waited for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from serving.api.numbers import shown
from serving.core.errors import InvalidParameter
from serving.core.ports import Clock
from serving.core.streams import Frame, StreamKey, Streams, superseded

STREAM_PARAMETER, FRAME_PARAMETER = "stream", "frame"
PARAMETERS = (STREAM_PARAMETER, FRAME_PARAMETER)

NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9._~-]{0,63}"
_NAME = re.compile(NAME_PATTERN)
_NUMBER = re.compile(r"[0-9]{1,19}")
MAX_NUMBER = 2**63 - 1
"""Largest number of a frame: nanoseconds since 1970 are one."""


def stream_name(text: str) -> str:
    """Return the name of a stream. Raises InvalidParameter for what is none."""
    if not _NAME.fullmatch(text):
        raise InvalidParameter(
            "The name of a stream is 1 to 64 letters, digits and . _ ~ -, the first a letter or "
            f"digit; it is {shown(text)}."
        )
    return text


@dataclass(frozen=True, slots=True)
class FrameId:
    """A frame as its sender names it."""

    stream: str
    number: int


def parse_frame(streams: Sequence[str], frames: Sequence[str]) -> FrameId | None:
    """Return which frame a query says that an image is, or None if it is of no stream.

    Raises InvalidParameter.
    """
    if not streams and not frames:
        return None
    if len(streams) != 1 or len(frames) != 1:
        raise InvalidParameter(
            f"{STREAM_PARAMETER} and {FRAME_PARAMETER} belong together, each once: the name of a "
            "stream, and the number of an image in it."
        )
    (number,) = frames
    if not _NUMBER.fullmatch(number) or int(number) > MAX_NUMBER:
        raise InvalidParameter(
            f"{FRAME_PARAMETER} must be one integer from 0 to {MAX_NUMBER}; it is {shown(number)}."
        )
    return FrameId(stream_name(streams[0]), int(number))


class FrameTurns:
    """The turns of all frames in one server. Not thread-safe: the event loop owns it."""

    def __init__(self, streams: Streams, clock: Clock) -> None:
        self.streams = streams
        self._clock = clock
        self._turns: dict[Frame, asyncio.Future[bool]] = {}
        """Of the frames that had to wait, what is told whether they may go on."""

    @contextmanager
    def entered(self, key: StreamKey, number: int) -> Iterator[Frame]:
        """Note a frame for as long as the context lasts. Raises FrameSuperseded, TooManyRequests.

        When it ends, the frame that waits has its turn.
        """
        frame = self.streams.enter(key, number, self._clock())
        try:
            yield frame
        finally:
            self._turns.pop(frame, None)
            following = self.streams.leave(frame, self._clock())
            self._tell(following, True)

    def admit(self, frame: Frame) -> None:
        """Admit a frame; another that waited for its turn is superseded.

        Raises FrameSuperseded if a newer one was admitted meanwhile.
        """
        has_turn, older = self.streams.admit(frame)
        if not has_turn:
            self._turns[frame] = asyncio.get_running_loop().create_future()
        self._tell(older, False)

    async def turn(self, frame: Frame) -> None:
        """Return once an admitted frame may go on. Raises FrameSuperseded."""
        turn = self._turns.get(frame)
        if turn is not None and not await turn:
            raise superseded()
        self.streams.begin(frame)

    def _tell(self, frame: Frame | None, may_go_on: bool) -> None:
        turn = None if frame is None else self._turns.get(frame)
        if turn is not None and not turn.done():  # it is if nobody waits for it any longer
            turn.set_result(may_go_on)
