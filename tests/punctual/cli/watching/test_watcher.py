"""Frames, replies and broken connections, one step at a time by a clock that stands still."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field

import pytest

from punctual.cli.watching.ledger import LOST, SKIPPED, SUPERSEDED, WINDOW_S, Ended, Ledger
from punctual.cli.watching.newest import Frame, NewestFrame
from punctual.cli.watching.records import JsonLines
from punctual.cli.watching.screen import render, summary
from punctual.cli.watching.watcher import (
    FIRST_DELAY_S,
    MAX_DELAY_S,
    MAX_UNANSWERED,
    Watcher,
)
from punctual.problems import InvalidRequest, Overloaded, Problem, Unreachable
from punctual.reply import ANSWERED, read_frame_reply
from serving.core.command_errors import CommandError, CommandFailed
from tests.punctual.test_clients import ANSWER
from tests.serving.fakes import FakeClock

NONE = range(0)


class FakeStream:
    """Takes every frame until it is broken."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_broken = self.is_closed = False

    def send(self, image: bytes) -> int:
        if self.is_broken:
            raise Unreachable("broken")
        self.sent.append(image)
        return len(self.sent)

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Told:
    """What a sink was told, in order."""

    entries: list[object] = field(default_factory=list)

    def ended(self, ended: Ended) -> None:
        self.entries.append((ended.frame.number, ended.outcome))

    def skipped(self, frames: range) -> None:
        self.entries.extend((number, SKIPPED) for number in frames)


class World:
    def __init__(self, give_up_s: float = 60.0) -> None:
        self.clock = FakeClock()
        self.streams: list[FakeStream] = []
        self.errors: list[Exception] = []
        self.ledger = Ledger(self.clock.now)
        self.told = Told()
        self.lines = io.StringIO()
        sinks = (self.told, JsonLines(self.lines))
        self.watcher = Watcher(self._connect, self.ledger, sinks, self.clock, give_up_s)
        self.number = 0

    def _connect(self) -> FakeStream:
        if self.errors:
            raise self.errors.pop(0)
        self.streams.append(FakeStream())
        return self.streams[-1]

    def offer(self, skipped: int = 0) -> int:
        """Offer the next frame of the source, after some that came and went."""
        first = self.number + 1
        self.number += skipped + 1
        frame = Frame(self.number, self.number / 10, b"x")
        self.watcher.offer(frame, range(first, self.number))
        return self.number

    def reply(self, frame: int, outcome: str = ANSWERED, stream: int = -1) -> None:
        said = {**ANSWER, "frame": frame, "outcome": outcome}
        if outcome != ANSWERED:
            said = {
                "frame": frame,
                "outcome": outcome,
                "status": 409,
                "type": f"urn:punctual:problem:{outcome}",
                "title": "No",
            }
        self.watcher.replied(self.streams[stream], read_frame_reply(json.dumps(said)))


def overloaded(retry_after_s: float | None) -> Problem:
    return Overloaded("overloaded", status=503, title="", detail="", retry_after_s=retry_after_s)


def test_every_frame_is_told_once_in_order() -> None:
    world = World()
    for skipped in (0, 0, 2, 0):
        world.offer(skipped)
    world.reply(3)
    world.reply(2, SUPERSEDED)
    assert world.told.entries == [], "the first frame has not ended"
    world.reply(1)
    world.reply(1)  # said twice
    world.reply(4)
    assert world.told.entries == [
        (1, ANSWERED),
        (2, SUPERSEDED),
        (3, SKIPPED),
        (4, SKIPPED),
        (5, ANSWERED),
        (6, ANSWERED),
    ]
    lines = [json.loads(line) for line in world.lines.getvalue().splitlines()]
    assert [(line["frame"], line["outcome"]) for line in lines] == world.told.entries
    assert lines[0]["detections"] == ANSWER["detections"]
    assert lines[1]["title"] == "No"
    assert world.ledger.outcomes == {ANSWERED: 3, SUPERSEDED: 1, SKIPPED: 2}
    assert world.ledger.num_frames == world.number


def test_a_server_that_does_not_answer_is_sent_no_more() -> None:
    world = World()
    for _ in range(MAX_UNANSWERED + 3):
        world.offer()
    assert len(world.streams[0].sent) == world.watcher.num_unanswered == MAX_UNANSWERED
    assert world.ledger.outcomes[SKIPPED] == 3
    world.reply(1)
    world.offer()
    assert world.watcher.num_unanswered == MAX_UNANSWERED


@pytest.mark.parametrize("seen_by", ["reader", "sender"])
def test_what_a_lost_connection_owes_is_lost(seen_by: str) -> None:
    world = World()
    world.offer()
    world.offer()
    world.reply(1)
    first = world.streams[0]
    if seen_by == "reader":
        world.watcher.lost(first)
    else:
        first.is_broken = True
        world.offer()
    assert world.told.entries[:2] == [(1, ANSWERED), (2, LOST)]
    assert first.is_closed
    number = world.offer()
    world.reply(1, stream=0)  # of the old connection, too late
    assert world.watcher.num_unanswered == 1
    world.watcher.lost(first)  # its reader ends
    world.reply(1)
    assert world.told.entries[-1] == (number, ANSWERED)
    assert world.watcher.num_connections == 2


def test_it_connects_again_less_and_less_often() -> None:
    world = World()
    world.watcher.open()
    world.errors = [Unreachable("gone")] * 7
    world.watcher.lost(world.streams[0])
    waits = []
    while not world.watcher.is_connected:
        before_s, num_errors = world.clock.now, len(world.errors)
        while len(world.errors) == num_errors and not world.watcher.is_connected:
            world.watcher.open()
            if len(world.errors) == num_errors and not world.watcher.is_connected:
                world.clock.now += FIRST_DELAY_S / 4
        waits.append(world.clock.now - before_s)
    assert waits[0] == 0
    assert waits[1:] == [0.25, 0.5, 1.0, 2.0, 4.0, MAX_DELAY_S, MAX_DELAY_S]
    assert world.offer() == 1, "frames go on"
    assert world.watcher.num_unanswered == 1


def test_it_waits_as_long_as_the_server_says() -> None:
    world = World()
    world.watcher.open()
    world.watcher.lost(world.streams[0])
    world.errors = [overloaded(2.0)]
    world.watcher.open()
    world.clock.now += 1.9
    world.watcher.open()
    assert not world.watcher.is_connected
    world.clock.now += 0.1
    world.watcher.open()
    assert world.watcher.is_connected


def test_frames_without_a_connection_are_skipped() -> None:
    world = World()
    world.watcher.open()
    world.watcher.lost(world.streams[0])
    world.errors = [Unreachable("gone")]
    world.offer()
    world.offer()
    assert world.told.entries == [(1, SKIPPED), (2, SKIPPED)]


def test_it_gives_up() -> None:
    world = World(give_up_s=10)
    world.watcher.open()
    world.watcher.lost(world.streams[0])
    world.errors = [Unreachable("gone")] * 99
    started_s = world.clock.now

    def keep_trying() -> None:
        while True:
            world.watcher.open()
            world.clock.now += 0.5

    with pytest.raises(CommandFailed, match="gone"):
        keep_trying()
    assert 10 <= world.clock.now - started_s <= 10 + MAX_DELAY_S


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Unreachable("nobody"), CommandFailed),
        (InvalidRequest("invalid-parameter", status=400, title="No", detail=""), CommandError),
    ],
)
def test_at_the_start_it_fails_at_once(error: Exception, kind: type[CommandError]) -> None:
    world = World()
    world.errors = [error]
    with pytest.raises(CommandError) as raised:
        world.watcher.open()
    assert type(raised.value) is kind


def test_what_is_unanswered_at_the_end_is_lost() -> None:
    world = World()
    world.offer()
    world.watcher.close()
    world.watcher.close()
    assert world.told.entries == [(1, LOST)]
    assert world.streams[0].is_closed


def test_figures_are_of_the_last_seconds() -> None:
    world = World()
    assert world.ledger.on_time is None
    assert world.ledger.recent(world.clock.now).on_time is None
    outcomes = (ANSWERED, "deadline-exceeded", SUPERSEDED, ANSWERED, ANSWERED)
    for number, outcome in enumerate(outcomes, 1):
        world.offer(1)
        world.clock.now += 0.02
        world.reply(number, outcome)
    figures = world.ledger.recent(world.clock.now)
    assert figures.on_time == world.ledger.on_time == 3 / 4, "neither superseded nor skipped"
    assert figures.answered_hz == 3.0, "of one second at least"
    assert figures.age_s == pytest.approx(0.02)
    assert figures.points == (("128x96/3", 1.0),)
    assert world.ledger.used(9) == [0.25, None, 0.25, 0.25]
    later = world.ledger.recent(world.clock.now + WINDOW_S + 1)
    assert (later.on_time, later.points) == (None, ())


def test_the_screen_and_the_summary_say_so() -> None:
    rich = pytest.importorskip("rich.console")
    world = World()
    world.offer(2)
    world.reply(1)
    world.offer()
    world.reply(2, "overloaded")
    console = rich.Console(file=io.StringIO(), width=100)
    console.print(render("film.mp4", "http://here", world.ledger, world.clock.now, False))
    shown = console.file.getvalue()
    for text in ("film.mp4", "http://here", "50.0%", "2 skipped", "128x96/3 100%", "square", "✗"):
        assert text in shown
    assert "no connection" in shown
    assert summary(world.ledger) == (
        "4 frames: 2 skipped, 1 answered, 1 overloaded; 50.0% in time; 128x96/3 100%"
    )


def test_only_the_newest_frame_waits() -> None:
    newest = NewestFrame()
    assert newest.take() == (None, NONE)
    assert [newest.put(Frame(number, 0.0, b"")) for number in (1, 2, 3)] == [True, False, False]
    frame, skipped = newest.take()
    assert (frame and frame.number, list(skipped)) == (3, [1, 2])
    assert newest.put(Frame(4, 0.0, b""))
    frame, skipped = newest.take()
    assert (frame and frame.number, list(skipped)) == (4, [])
