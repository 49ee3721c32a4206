"""Streams: whose turn it is, and that no two frames of one wait."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.core import streams as module
from serving.core.errors import FrameSuperseded, TooManyRequests
from serving.core.streams import Frame, Session, Streams

CAM = ("alice", "cam")


def in_flight(streams: Streams, number: int, now_s: float = 0.0) -> Frame:
    frame = streams.enter(CAM, number, now_s)
    assert streams.admit(frame) == (True, None)
    return frame


def test_numbers_grow() -> None:
    streams = Streams(4, 4, 10.0)
    in_flight(streams, 7)
    for number in (6, 7):
        with pytest.raises(FrameSuperseded, match=f"Frame {number} is not newer than frame 7"):
            streams.enter(CAM, number, 0.0)
    streams.enter(("bob", "cam"), 1, 0.0)  # whose stream is another


def test_of_two_that_come_at_once_the_one_that_is_admitted_first_may_be_the_newer() -> None:
    streams = Streams(4, 4, 10.0)
    slow = streams.enter(CAM, 1, 0.0)
    in_flight(streams, 2)
    with pytest.raises(FrameSuperseded):
        streams.admit(slow)


def test_what_was_refused_supersedes_nobody() -> None:
    streams = Streams(4, 1, 10.0)
    in_flight(streams, 1)
    streams.leave(streams.enter(CAM, 3, 0.0), 0.0)  # before it was admitted
    waiting = streams.enter(CAM, 2, 0.0)
    assert streams.admit(waiting) == (False, None)


def test_who_is_decoded_late_is_superseded() -> None:
    streams = Streams(4, 4, 10.0)
    first, second = in_flight(streams, 1), in_flight(streams, 2)
    streams.submit(second)
    with pytest.raises(FrameSuperseded):
        streams.submit(first)


def test_a_session_numbers_its_frames_anew_and_ends_the_one_before() -> None:
    streams = Streams(4, 4, 10.0)
    old, before = streams.connect(CAM, 0.0)
    assert before is None
    first = in_flight(streams, 5)
    new, before = streams.connect(CAM, 0.0)
    assert before is old
    second = in_flight(streams, 1)
    streams.submit(second)
    with pytest.raises(FrameSuperseded):  # older, though its number is larger
        streams.submit(first)
    streams.disconnect(old, 0.0)
    assert streams.connect(CAM, 0.0)[1] is new


def test_a_frame_within_the_promised_rate_has_the_first_turn() -> None:
    streams = Streams(4, 4, 10.0)
    streams.connect(CAM, 0.0, promised_hz=5.0)
    numbers = iter(range(100))
    promised = [streams.enter(CAM, next(numbers), 0.0).is_promised for _ in range(4)]
    assert promised == [True, True, False, False]
    assert streams.enter(CAM, next(numbers), 0.2).is_promised
    assert not streams.enter(CAM, next(numbers), 0.2).is_promised
    other = streams.enter(("alice", "other"), 1, 0.2)
    assert not other.is_promised
    assert other.turn > streams.enter(CAM, next(numbers), 0.5).turn


def test_idle_ones_are_forgotten() -> None:
    streams = Streams(4, 4, 10.0)
    frame = in_flight(streams, 5)
    with pytest.raises(FrameSuperseded):
        streams.enter(CAM, 1, 99.0)  # something is inside
    streams.leave(frame, 100.0)
    with pytest.raises(FrameSuperseded):
        streams.enter(CAM, 1, 109.0)
    streams.enter(CAM, 1, 110.0)
    assert len(streams) == 1
    streams.leave(streams.enter(("alice", "other"), 1, 111.0), 111.0)
    streams.enter(("alice", "third"), 1, 130.0)
    assert len(streams) == 2


def test_a_principal_has_only_so_many() -> None:
    streams = Streams(2, 4, 10.0)
    kept = streams.enter(("alice", "a"), 1, 0.0)
    streams.leave(streams.enter(("alice", "b"), 1, 0.0), 0.0)
    streams.enter(("alice", "c"), 1, 0.0)  # in the place of b
    with pytest.raises(TooManyRequests):
        streams.enter(("alice", "d"), 1, 0.0)
    streams.enter(("bob", "d"), 1, 0.0)
    streams.leave(kept, 0.0)
    streams.enter(("alice", "d"), 1, 0.0)


def test_all_have_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN_STREAMS", 3)
    streams = Streams(2, 4, 10.0)
    for number in range(10):
        streams.leave(streams.enter((f"p{number}", "s"), 1, 0.0), 0.0)
    assert len(streams) == 3


class StreamsAndFrames(RuleBasedStateMachine):
    """Streams of two principals beside a model of what each of their frames may do."""

    MAX_STREAMS, MAX_IN_FLIGHT, IDLE_S = 2, 2, 5.0

    def __init__(self) -> None:
        super().__init__()
        self.streams = Streams(self.MAX_STREAMS, self.MAX_IN_FLIGHT, self.IDLE_S)
        self.now_s = 0.0
        self.entered: set[Frame] = set()
        self.going: set[Frame] = set()
        self.waiting: dict[tuple[str, str], Frame] = {}
        self.submitted: dict[tuple[str, str], int] = {}
        self.sessions: list[Session] = []

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(principal=st.sampled_from("ab"), name=st.sampled_from("xyz"), number=st.integers(0, 9))
    def enter(self, principal: str, name: str, number: int) -> None:
        key = (principal, name)
        try:
            self.entered.add(self.streams.enter(key, number, self.now_s))
        except FrameSuperseded:
            pass
        except TooManyRequests:
            busy = {f.key for f in self.inside} | {s.key for s in self.sessions}
            assert len({k for k in busy if k[0] == principal}) == self.MAX_STREAMS

    @precondition(lambda self: self.entered)
    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        frame = self.take(data, self.entered)
        try:
            has_turn, superseded = self.streams.admit(frame)
        except FrameSuperseded:
            self.streams.leave(frame, self.now_s)
            return
        if frame.order == 1:  # the first of a stream, which may have been forgotten before
            self.submitted.pop(frame.key, None)
        assert superseded is (None if has_turn else self.waiting.get(frame.key))
        if has_turn:
            self.going.add(frame)
            return
        self.waiting[frame.key] = frame
        if superseded is not None:
            assert superseded.order < frame.order
            assert self.streams.leave(superseded, self.now_s) is None

    @precondition(lambda self: self.going)
    @rule(data=st.data(), submits=st.booleans())
    def go_on(self, data: st.DataObject, submits: bool) -> None:
        frame = self.take(data, self.going)
        if submits:
            newest = self.submitted.get(frame.key, 0)
            try:
                self.streams.submit(frame)
            except FrameSuperseded:
                assert frame.order < newest
            else:
                assert frame.order >= newest
                self.submitted[frame.key] = frame.order
        promoted = self.streams.leave(frame, self.now_s)
        assert promoted is self.waiting.pop(frame.key, None)
        if promoted is not None:
            self.going.add(promoted)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.streams.leave(self.waiting.pop(key), self.now_s) is None

    @rule(name=st.sampled_from("xyz"))
    def connect(self, name: str) -> None:
        try:
            session, before = self.streams.connect(("a", name), self.now_s)
        except TooManyRequests:
            return
        assert before is None or before in self.sessions
        self.sessions.append(session)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.sessions) - 1))
        self.streams.disconnect(self.sessions.pop(number), self.now_s)

    @property
    def inside(self) -> set[Frame]:
        return self.entered | self.going | set(self.waiting.values())

    def take(self, data: st.DataObject, frames: set[Frame]) -> Frame:
        frame = data.draw(st.sampled_from(sorted(frames, key=lambda f: (f.key, f.number, f.order))))
        frames.remove(frame)
        return frame

    @invariant()
    def few_are_known(self) -> None:
        assert len(self.streams) <= 2 * self.MAX_STREAMS

    @invariant()
    def few_of_one_are_under_way(self) -> None:
        for key in {frame.key for frame in self.going}:
            assert sum(frame.key == key for frame in self.going) <= self.MAX_IN_FLIGHT

    @invariant()
    def one_waits_only_while_there_is_no_turn(self) -> None:
        for key in self.waiting:
            assert sum(frame.key == key for frame in self.going) == self.MAX_IN_FLIGHT


TestStreamsAndFrames = StreamsAndFrames.TestCase
