"""Streams: named sequences of frames, of each of which only the newest that waits is worth work.

    enter -> admit -> waits for its turn -> begin -> in flight -> submit -> leave
      |        |            |                 |                     |
      '--------'------------'-----------------'-- superseded by a newer one

A stream belongs to its principal, and so does its name. Its frames are numbered by whoever sends
them, each larger than those before. A frame gives way to a newer one wherever both wait for the
same thing: here for one of the few turns that a stream has at once, then for a thread that decodes,
then for the engine. So a camera that is faster than decoding is answered all the same: what is
under way is not given up for what has only come.

All of this is bookkeeping, by one thread; instants are arguments.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

from serving.core.errors import FrameSuperseded, TooManyRequests
from serving.core.token_bucket import TokenBucket

StreamKey = tuple[str, str]
"""Name of a principal, and a name that this one has given to a stream."""

MAX_KNOWN_STREAMS = 4096
"""Number of streams that are remembered. Beyond it, those go first that were not used for longest
and have nothing inside: at worst a frame is served that is not newer than the one before."""

PROMISED_BURST = 2.0
"""Frames that may come at once of a stream that was promised a rate: one may be late, and the next
in time."""
PROMISED_TURN = -1
"""Turn before that of any stream without a promise."""
NONE = -1
"""Number below that of any frame."""


@dataclass(eq=False, slots=True)
class Frame:
    """One frame of a stream, from when it has come until it has left."""

    key: StreamKey
    number: int
    """Number that its sender gave it."""
    order: int = 0
    """Place among all admitted frames of the stream, from 1; 0 before it is admitted."""
    turn: int = 0
    """Order in which its stream was last answered, among all; 0 if it never was. The smaller it is,
    the sooner it is its stream's turn. ``PROMISED_TURN`` if its stream sends no more than it was
    promised."""

    @property
    def is_promised(self) -> bool:
        """Whether its stream sends no more than it was promised."""
        return self.turn == PROMISED_TURN


@dataclass(eq=False, slots=True)
class Session:
    """One connection that sends the frames of a stream."""

    key: StreamKey
    promised: TokenBucket | None = None
    """Frames that it may send within the rate that it was promised; None if it was promised none.
    """
    rate_hz: float | None = None
    """That rate, in frames a second."""


@dataclass(slots=True)
class _Stream:
    used_s: float
    newest: int = NONE
    """Largest number of its admitted frames, since its latest session began."""
    num_admitted: int = 0
    begun: int = 0
    """Order of the newest frame that has had its turn."""
    submitted: int = 0
    """Order of the newest frame that the engine was given."""
    answered: int = 0
    """Order of its latest answer among those of all streams."""
    num_inside: int = 0
    """Number of frames and sessions that have entered and not left."""
    in_flight: set[Frame] = field(default_factory=set)
    waiting: Frame | None = None
    """Frame that waits for its turn."""
    session: Session | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    """What others remember of it, by their names for it."""


class Streams:
    """The streams of one server. Not thread-safe: the event loop owns it."""

    def __init__(self, max_per_principal: int, max_in_flight: int, idle_s: float) -> None:
        """Make an empty collection.

        A principal has at most ``max_per_principal`` streams, each with at most ``max_in_flight``
        frames under way, and one that waits. One with nothing inside is forgotten after ``idle_s``
        seconds.
        """
        self._max_per_principal = max_per_principal
        self._max_in_flight = max_in_flight
        self._idle_s = idle_s
        self._streams: OrderedDict[StreamKey, _Stream] = OrderedDict()  # last used last
        self._num_of: Counter[str] = Counter()
        self._num_answered = 0

    def __len__(self) -> int:
        return len(self._streams)

    # -- sessions ----------------------------------------------------------------------------------

    def connect(
        self, key: StreamKey, now_s: float, promised_hz: float | None = None
    ) -> tuple[Session, Session | None]:
        """Begin a session, whose frames are numbered anew; return it, and the one that it ends.

        It may have been promised a rate. Raises TooManyRequests.
        """
        promised = None
        if promised_hz is not None:
            promised = TokenBucket(promised_hz, PROMISED_BURST, now_s)
        stream = self._open(key, now_s)
        before, stream.session = stream.session, Session(key, promised, promised_hz)
        stream.newest = NONE
        return stream.session, before

    def disconnect(self, session: Session, now_s: float) -> None:
        """End a session, whether or not another has taken its place."""
        stream = self._streams[session.key]
        if stream.session is session:
            stream.session = None
        self._close(session.key, stream, now_s)

    # -- frames ------------------------------------------------------------------------------------

    def enter(self, key: StreamKey, number: int, now_s: float) -> Frame:
        """Take note of a frame whose head has come; it must ``leave``, whatever becomes of it.

        Raises FrameSuperseded if a newer one was admitted, TooManyRequests if it would be the first
        of one stream more than its principal may have.
        """
        known = self._known(key, now_s)
        if known is not None and number <= known.newest:
            raise not_newer(number, known.newest)
        stream = self._open(key, now_s)
        turn = stream.answered
        if (session := stream.session) is not None and (rate := session.promised) is not None:
            is_promised = rate.wait_s(now_s, 1.0) <= 0.0
            if is_promised:
                rate.take(now_s)
                turn = PROMISED_TURN
        return Frame(key, number, turn=turn)

    def admit(self, frame: Frame) -> tuple[bool, Frame | None]:
        """Admit a frame: return whether it may go on, or else waits, and whom that supersedes.

        Raises FrameSuperseded if a newer one was admitted meanwhile.
        """
        stream = self._streams[frame.key]
        if frame.number <= stream.newest:
            raise not_newer(frame.number, stream.newest)
        stream.newest = frame.number
        stream.num_admitted += 1
        frame.order = stream.num_admitted
        if len(stream.in_flight) < self._max_in_flight:
            stream.in_flight.add(frame)
            return True, None
        superseded, stream.waiting = stream.waiting, frame
        return False, superseded

    def begin(self, frame: Frame) -> None:
        """Let a frame have its turn. Raises FrameSuperseded if a newer one has had its own before:
        one that waited hears of it a moment later than one that need not wait goes on."""
        stream = self._streams[frame.key]
        if frame.order < stream.begun:
            raise superseded()
        stream.begun = frame.order

    def submit(self, frame: Frame) -> None:
        """Let a frame go to the engine. Raises FrameSuperseded if a newer one has gone before."""
        stream = self._streams[frame.key]
        if frame.order < stream.submitted:
            raise superseded()
        stream.submitted = frame.order

    def answered(self, frame: Frame) -> None:
        """Note that a frame has an answer, so that it is the turn of other streams."""
        self._num_answered += 1
        self._streams[frame.key].answered = self._num_answered

    def rate_hz(self, frame: Frame) -> float | None:
        """Return the frames a second that the frame's stream has stated, or None."""
        session = self._streams[frame.key].session
        return None if session is None else session.rate_hz

    def memory(self, frame: Frame) -> dict[str, Any]:
        """Return what others remember of the frame's stream, which is forgotten with it.

        Each may keep there what has a bound.
        """
        return self._streams[frame.key].memory

    def leave(self, frame: Frame, now_s: float) -> Frame | None:
        """Note that a frame has ended; return the one whose turn it is now, if any."""
        stream = self._streams[frame.key]
        promoted = None
        if stream.waiting is frame:
            stream.waiting = None
        elif frame in stream.in_flight:
            stream.in_flight.remove(frame)
            promoted, stream.waiting = stream.waiting, None
            if promoted is not None:
                stream.in_flight.add(promoted)
        self._close(frame.key, stream, now_s)
        return promoted

    # -- bounds ------------------------------------------------------------------------------------

    def _open(self, key: StreamKey, now_s: float) -> _Stream:
        """Return a stream, new if need be, with one more inside. Raises TooManyRequests."""
        stream = self._known(key, now_s)
        if stream is None:
            self._forget_idle(now_s)
            principal, _ = key
            if self._num_of[principal] >= self._max_per_principal:
                self._make_room(principal)
            if len(self._streams) >= MAX_KNOWN_STREAMS:
                self._forget_one()
            stream = self._streams[key] = _Stream(now_s)
            self._num_of[principal] += 1
        stream.num_inside += 1
        return stream

    def _known(self, key: StreamKey, now_s: float) -> _Stream | None:
        """Return a stream, unless nobody has used it for too long."""
        stream = self._streams.get(key)
        if stream is None or not self._is_idle(stream, now_s):
            return stream
        self._forget(key)
        return None

    def _is_idle(self, stream: _Stream, now_s: float) -> bool:
        return not stream.num_inside and now_s - stream.used_s >= self._idle_s

    def _close(self, key: StreamKey, stream: _Stream, now_s: float) -> None:
        stream.num_inside -= 1
        stream.used_s = now_s
        self._streams.move_to_end(key)

    def _make_room(self, principal: str) -> None:
        """Forget the stream of ``principal`` that was not used for longest."""
        if not self._forget_one(principal):
            raise TooManyRequests(
                f"There are {self._max_per_principal} streams of this client, which is as many as "
                "it may have at once."
            )

    def _forget_idle(self, now_s: float) -> None:
        for key, stream in list(self._streams.items()):
            if self._is_idle(stream, now_s):
                self._forget(key)
            elif not stream.num_inside:
                return  # those behind it were used later

    def _forget_one(self, principal: str | None = None) -> bool:
        """Forget a stream with nothing inside, of ``principal`` or of anybody, if there is one."""
        for key, stream in self._streams.items():
            if not stream.num_inside and principal in (None, key[0]):
                self._forget(key)
                return True
        return False

    def _forget(self, key: StreamKey) -> None:
        del self._streams[key]
        principal, _ = key
        self._num_of[principal] -= 1
        if not self._num_of[principal]:
            del self._num_of[principal]


def superseded() -> FrameSuperseded:
    """Return the error of a frame that has given way to a newer one."""
    return FrameSuperseded("A newer frame of the stream came before this one was begun.")


def not_newer(number: int, newest: int) -> FrameSuperseded:
    """Return the error of a frame with a number that is not larger than the ``newest``."""
    return FrameSuperseded(f"Frame {number} is not newer than frame {newest} of its stream.")
