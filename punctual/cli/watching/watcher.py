"""Frames as they come, replies as they come, and a connection that may be lost in between.

Every frame of the source ends exactly once: it is skipped, or sent and then answered, superseded,
refused or lost. Ends are told in the order of the frames, however the server orders them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from punctual.cli.options import nobody_there
from punctual.cli.watching.ledger import LOST, Ended, Ledger
from punctual.cli.watching.newest import Frame
from punctual.problems import (
    Overloaded,
    Problem,
    PunctualError,
    TooManyRequests,
    Unavailable,
    Unreachable,
)
from punctual.reply import ANSWERED, FrameReply, Reply
from serving.core.command_errors import CommandError, CommandFailed

MAX_UNANSWERED = 16
"""Frames that a server may owe an answer: further ones are skipped."""
FIRST_DELAY_S, MAX_DELAY_S = 0.25, 5.0
"""Between two attempts to connect; twice as long each time."""

_PASSING = (Unreachable, Unavailable, Overloaded, TooManyRequests)
"""What may be better at the next attempt."""


class Stream(Protocol):
    """A connection that frames are sent over."""

    def send(self, image: bytes) -> int:
        """Send a frame and return its number. Raises Unreachable."""

    def close(self) -> None:
        """End the connection."""


class Sink(Protocol):
    """Whatever is told of every frame, in order."""

    def ended(self, ended: Ended) -> None:
        """Take one frame that was sent."""

    def skipped(self, frames: range) -> None:
        """Take the numbers of frames that were not."""


@dataclass(slots=True)
class _Sent:
    frame: Frame
    sent_s: float
    ended: Ended | None = None


class Watcher:
    """What is sent next, over which connection, and what is told of it.

    ``connect`` opens a stream; the caller reads its replies and calls ``replied``, or ``lost`` when
    it ends. All methods are for one thread. ``give_up_s`` is how long there may be no connection.
    """

    def __init__(
        self,
        connect: Callable[[], Stream],
        ledger: Ledger,
        sinks: Iterable[Sink],
        clock: Callable[[], float],
        give_up_s: float,
    ) -> None:
        self.ledger = ledger
        self.num_connections = 0
        self._connect = connect
        self._sinks = tuple(sinks)
        self._clock = clock
        self._give_up_s = give_up_s
        self._stream: Stream | None = None
        self._unanswered: dict[int, _Sent] = {}
        self._in_order: deque[_Sent | range] = deque()
        self._delay_s = FIRST_DELAY_S
        self._next_try_s = self._apart_s = clock()
        """When to connect next, and since when there has been no connection."""

    @property
    def is_connected(self) -> bool:
        """Whether frames can be sent."""
        return self._stream is not None

    @property
    def num_unanswered(self) -> int:
        """Frames that the server owes an answer."""
        return len(self._unanswered)

    def open(self) -> None:
        """Connect, if there is no connection and it is time to try.

        Raises CommandError where the server says why it will not do, and CommandFailed where there
        has been none for too long, or never one.
        """
        now_s = self._clock()
        if self._stream is not None or now_s < self._next_try_s:
            return
        try:
            self._stream = self._connect()
        except _PASSING as error:
            now_s = self._clock()
            if isinstance(error, Unreachable) and not self.num_connections:
                raise nobody_there(error) from error
            if not self.num_connections or now_s - self._apart_s >= self._give_up_s:
                raise CommandFailed(str(error)) from error
            wait_s = getattr(error, "retry_after_s", None) or self._delay_s
            self._next_try_s = now_s + min(MAX_DELAY_S, wait_s)
            self._delay_s = min(MAX_DELAY_S, 2 * self._delay_s)
        except Problem as problem:
            raise CommandError(str(problem)) from problem
        except PunctualError as error:
            raise CommandFailed(str(error)) from error
        else:
            self.num_connections += 1
            self._delay_s = FIRST_DELAY_S

    def offer(self, frame: Frame, skipped: range) -> None:
        """Send a frame, unless it cannot be sent now.

        ``skipped`` are the numbers of those before it that came and went.
        """
        self._skip(skipped)
        self.open()
        if self._stream is None or len(self._unanswered) >= MAX_UNANSWERED:
            self._skip(range(frame.number, frame.number + 1))
            return
        sent = _Sent(frame, self._clock())
        try:
            number = self._stream.send(frame.data)
        except Unreachable:
            self.lost(self._stream)
            self._skip(range(frame.number, frame.number + 1))
            return
        self._unanswered[number] = sent
        self._in_order.append(sent)

    def replied(self, stream: Stream, reply: FrameReply) -> None:
        """Take what is said on a connection of a frame that was sent on it."""
        if stream is not self._stream:
            return  # its frames have been told as lost
        sent = self._unanswered.pop(reply.frame, None)
        if sent is not None:
            self._end(sent, reply.outcome, reply.reply, reply.problem)
            self._tell()

    def lost(self, stream: Stream) -> None:
        """Give up a connection that has ended, and every frame that it owes an answer."""
        if stream is not self._stream:
            return
        stream.close()
        self._stream = None
        self._apart_s = self._next_try_s = self._clock()
        for sent in self._unanswered.values():
            self._end(sent, LOST)
        self._unanswered.clear()
        self._tell()

    def close(self) -> None:
        """End the connection; what is unanswered is lost."""
        if self._stream is not None:
            self.lost(self._stream)

    def _end(
        self, sent: _Sent, outcome: str, reply: Reply | None = None, problem: Problem | None = None
    ) -> None:
        now_s = self._clock()
        answered = reply if outcome == ANSWERED else None
        sent.ended = Ended(sent.frame, outcome, now_s, now_s - sent.sent_s, answered, problem)
        self.ledger.add(sent.ended)

    def _skip(self, frames: range) -> None:
        self.ledger.skip(len(frames))
        if frames:
            self._in_order.append(frames)
            self._tell()

    def _tell(self) -> None:
        """Tell the sinks of the oldest frames, as far as all before them have ended."""
        while self._in_order:
            oldest = self._in_order[0]
            if isinstance(oldest, range):
                for sink in self._sinks:
                    sink.skipped(oldest)
            elif oldest.ended is not None:
                for sink in self._sinks:
                    sink.ended(oldest.ended)
            else:
                return
            self._in_order.popleft()
