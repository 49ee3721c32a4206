"""When somebody who is asked again and again counts as silent."""

from __future__ import annotations

import pytest

from serving.backends.silence import Silence
from tests.serving.fakes import FakeClock

EVERY_S = 0.25


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.silence = Silence(self.clock, EVERY_S)

    def ask(self, times: int, seconds: float = EVERY_S) -> float:
        """So many questions that nobody answers, at a distance; the silence then."""
        for _ in range(times):
            self.silence.asked()
            self.clock.now += seconds
        return self.silence.seconds


def test_it_lasts_from_the_last_answer_on() -> None:
    world = World()
    assert world.ask(8) == pytest.approx(2.0)
    world.silence.heard()
    assert world.silence.seconds == 0.0
    assert world.ask(4) == pytest.approx(1.0)


def test_whoever_stood_still_has_heard_nothing() -> None:
    world = World()
    world.ask(1)
    world.silence.heard()
    assert world.ask(1, seconds=5.0) == pytest.approx(EVERY_S)
    assert world.ask(1) == pytest.approx(2 * EVERY_S)
    world.silence.heard()
    assert world.silence.seconds == 0.0


def test_a_slow_machine_makes_nobody_silent_sooner() -> None:
    world = World()
    assert world.ask(8, seconds=4 * EVERY_S) == pytest.approx(8 * EVERY_S)


def test_an_answer_that_is_read_after_a_stand_still_is_one() -> None:
    world = World()
    world.silence.asked()
    world.clock.now += 5.0
    world.silence.heard()
    world.silence.asked()
    assert world.silence.seconds == 0.0
