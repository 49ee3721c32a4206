"""How long who comes would wait: by those due before it, and by the pace of answers."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from serving.api.backlog import MIN_ANSWERS, WINDOW, Backlog
from serving.core.principals import NOBODY
from tests.serving.world import FakeClock


class Server:
    """A backlog in which ``inside`` wait, and answers as they are asked for."""

    def __init__(self, *inside: float) -> None:
        self.clock = FakeClock()
        self.backlog = Backlog(self.clock)
        self.stack = ExitStack()
        self.enter(*inside)

    def enter(self, *deadlines_s: float) -> None:
        for deadline_s in deadlines_s:
            self.stack.enter_context(self.backlog.joined(deadline_s))

    def answer(self, count: int, gap_s: float, share: float = 1.0) -> None:
        for _ in range(count):
            self.clock.now_s += gap_s
            self.backlog.answered(share)

    def wait_s(self, deadline_s: float = 100.0) -> float:
        return self.backlog.wait_s(deadline_s)


def test_those_due_before_are_waited_for_at_the_pace_of_answers():
    server = Server(5.0, 3.0, 9.0, 3.0)
    server.answer(MIN_ANSWERS + 1, 0.01)
    for deadline_s, num_ahead in ((1.0, 0), (3.0, 0), (3.1, 2), (6.0, 3), (9.5, 4)):
        assert server.backlog.num_ahead(deadline_s) == num_ahead
        assert server.wait_s(deadline_s) == pytest.approx(num_ahead * 0.01)


def test_few_answers_tell_nothing():
    server = Server(1.0)
    server.answer(MIN_ANSWERS, 0.01)
    assert server.wait_s() == 0.0
    server.answer(1, 0.01)
    assert server.wait_s() > 0.0


def test_answers_that_come_together_count_as_what_they_took_together():
    server = Server(1.0)
    for _ in range(4):
        server.answer(1, 0.04)
        server.answer(3, 0.0)
    assert server.wait_s() == pytest.approx(3 * 0.04 / 15)


def test_answers_count_as_what_they_had_to_take():
    server = Server(1.0)
    server.answer(MIN_ANSWERS, 0.04, share=0.25)
    server.answer(MIN_ANSWERS + 1, 0.02)
    assert server.wait_s() == pytest.approx((7 * 0.01 + 9 * 0.02) / 16)


def test_only_the_latest_count():
    server = Server(1.0)
    server.answer(100, 5.0)
    server.answer(WINDOW, 0.01)
    assert server.wait_s() == pytest.approx(0.01)


def test_an_answer_that_does_not_come_counts_before_it_does():
    server = Server(1.0)
    server.answer(MIN_ANSWERS + 1, 0.01)
    server.clock.now_s += 0.9
    assert server.wait_s() == pytest.approx((MIN_ANSWERS * 0.01 + 0.9) / (MIN_ANSWERS + 1))


def test_time_in_which_nobody_waits_is_nobodys():
    server = Server(1.0)
    server.answer(MIN_ANSWERS + 1, 0.01)
    server.stack.close()
    assert server.wait_s() == 0.0
    server.clock.now_s += 1000.0
    server.enter(2000.0)
    server.answer(1, 0.01)  # what came before it was no queue
    assert server.wait_s(3000.0) == pytest.approx(0.01)


def test_whoever_ends_badly_is_not_inside_either():
    server = Server()
    inside = server.backlog.joined(1.0)
    inside.__enter__()
    assert server.backlog.num_ahead(2.0) == 1
    assert not inside.__exit__(RuntimeError, RuntimeError(), None), "the error goes on"
    assert server.backlog.num_ahead(2.0) == 0


def test_whoever_has_an_answer_is_waited_for_no_more_and_better_ones_do_not_matter():
    server = Server(9.0)
    with server.backlog.joined(1.0) as place:
        server.answer(MIN_ANSWERS + 1, 0.01)
        assert server.backlog.num_ahead(5.0) == 1
        server.clock.now_s += 0.01
        place.answered(1.0)
        assert server.backlog.num_ahead(5.0) == 0
        before_s = server.wait_s()
        place.answered(1.0)
        server.clock.now_s += 0.005
        place.answered(1.0)
        assert server.wait_s() == before_s
    assert server.backlog.num_ahead(100.0) == 1


def test_who_waits_for_something_else_is_inside_and_ahead_of_nobody():
    server = Server(9.0)
    server.answer(MIN_ANSWERS + 1, 0.01)
    with server.backlog.joined(1.0, is_queued=False) as place:
        assert server.backlog.num_inside == 2
        assert server.backlog.num_ahead(5.0) == 0
        place.queue()
        place.queue()
        assert server.backlog.num_ahead(5.0) == 1
        place.answered(1.0)
        place.queue()
        assert server.backlog.num_ahead(5.0) == 0, "whoever has an answer does not come back"
    with server.backlog.joined(1.0, is_queued=False):
        pass
    assert server.backlog.num_ahead(100.0) == 1


def test_time_in_which_everybody_waits_for_something_else_is_no_queue():
    server = Server()
    with server.backlog.joined(9.0, is_queued=False):
        server.enter(8.0)
        server.answer(MIN_ANSWERS + 1, 0.01)
        server.stack.close()
        server.clock.now_s += 5.0
        assert server.wait_s() == 0.0


def test_frames_of_one_principal_go_by_the_turns_of_their_streams():
    server = Server(20.0)
    for turn in (5, 7):
        server.stack.enter_context(server.backlog.joined(10.0, NOBODY, turn))
    server.answer(MIN_ANSWERS + 1, 0.01)
    cases: list[tuple[float, int | None, int]] = [
        (5.0, 6, 1),  # one stream was answered before its
        (30.0, 0, 1),  # none was, and an image of no stream is due before
        (15.0, None, 2),  # which itself goes by its deadline
    ]
    for deadline_s, its_turn, num_ahead in cases:
        wait_s = server.backlog.wait_s(deadline_s, turn=its_turn)
        assert wait_s == pytest.approx(num_ahead * 0.01)
    server.stack.close()
    assert server.backlog.num_ahead(100.0) == 0
