"""The embedded backend over a real executor whose segments run only when they are let."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serving.backends import in_process
from serving.backends.embedded import EmbeddedBackend
from serving.core.errors import Overloaded
from serving.core.request import Answered, Cancelled, Request, Result
from tests.serving.gated import GATED_CATALOG, SIZES, GatedRunner, gated_backend, sized_runner
from tests.serving.upgrades import Upgrades
from tests.serving.world import NUM_EXITS, FakeClock, Recorder

pytestmark = pytest.mark.anyio

BUDGET_S = 300.0
TO_EXIT_1 = ("stem", "stack_1", "head_1")
IDS = itertools.count()


def image() -> np.ndarray:
    return np.ones((96, 128, 3), np.uint8)


def request(streaming: bool, budget_s: float = BUDGET_S, max_depth: int = NUM_EXITS) -> Request:
    now_s = time.monotonic()
    return Request(next(IDS), now_s, now_s + budget_s, 1, max_depth, streaming)


class Bench:
    def __init__(self, runner: GatedRunner | None = None, **how: Any) -> None:
        self.runner = runner or GatedRunner()
        self.recorder = Recorder()
        self.backend: EmbeddedBackend = gated_backend(self.runner, self.recorder, **how)

    async def best(self, image: np.ndarray, request: Request) -> Answered:
        """The last of the answers."""
        async with aclosing(self.backend.stream(image, request)) as answers:
            return [answered async for answered in answers][-1]

    async def until(self, *runs: str) -> None:
        await asyncio.to_thread(self.runner.wait_for, *runs)

    async def until_ended(self, count: int) -> None:
        while len(self.recorder.results) < count:
            await asyncio.sleep(0)


def told(bench: Bench) -> list[Result]:
    """What the observer was told, as whoever asked is told it: with the family that answered."""
    return [
        replace(each, family=bench.backend.family) if isinstance(each, Answered) else each
        for each in bench.recorder.results
    ]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.backend.start()
    yield made
    made.runner.let(math.inf)
    await made.backend.stop(grace_s=BUDGET_S)


async def test_each_answer_comes_while_the_next_is_not_there(bench: Bench) -> None:
    runs = ["stem"]
    async with aclosing(bench.backend.stream(image(), request(streaming=True))) as answers:
        bench.runner.let()
        for depth in range(1, NUM_EXITS + 1):
            runs += [f"stack_{depth}", f"head_{depth}"]
            bench.runner.let(2)
            answered = await anext(answers)
            assert answered.depth == depth
            if depth < NUM_EXITS:
                await bench.until(*runs, f"stack_{depth + 1}")
        assert [answered async for answered in answers] == []
    assert told(bench) == [answered]


async def test_a_plain_request_has_one(bench: Bench) -> None:
    bench.runner.let(math.inf)
    plain = request(streaming=False)
    answered = await bench.best(image(), plain)
    assert (answered.request, answered.depth) == (plain, NUM_EXITS)
    assert told(bench) == [answered]


async def test_closing_cancels_at_the_next_boundary(bench: Bench) -> None:
    bench.runner.let(3)
    async with aclosing(bench.backend.stream(image(), request(streaming=True))) as answers:
        await anext(answers)
        await bench.until(*TO_EXIT_1, "stack_2")
    assert bench.backend.num_in_flight == 1  # its segment still runs
    bench.runner.let()
    await bench.until_ended(1)
    assert isinstance(bench.recorder.results[0], Cancelled)
    assert bench.backend.num_in_flight == 0
    assert bench.runner.runs == [*TO_EXIT_1, "stack_2"]


@pytest.mark.parametrize("streaming", [False, True])
async def test_cancelling_who_waits_cancels_at_the_next_boundary(
    bench: Bench, streaming: bool
) -> None:
    asked = request(streaming)
    answers = bench.backend.stream(image(), asked)
    waiting = asyncio.create_task(anext(answers) if streaming else bench.best(image(), asked))
    bench.runner.let()
    await bench.until("stem", "stack_1")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    bench.runner.let()
    await bench.until_ended(1)
    assert isinstance(bench.recorder.results[0], Cancelled)
    assert bench.runner.runs == ["stem", "stack_1"]


async def test_who_does_not_take_its_answers_delays_nobody(bench: Bench) -> None:
    bench.runner.let(math.inf)
    async with aclosing(bench.backend.stream(image(), request(streaming=True))) as answers:
        first = await anext(answers)
        other = await bench.best(image(), request(streaming=False))
        assert other.depth == NUM_EXITS
        await bench.until_ended(2)
        rest = [answered async for answered in answers]
    assert [answered.depth for answered in (first, *rest)] == list(range(1, NUM_EXITS + 1))


async def test_a_refusal_is_raised(bench: Bench) -> None:
    await bench.backend.stop(grace_s=0)
    with pytest.raises(Overloaded):
        await anext(bench.backend.stream(image(), request(streaming=True)))


async def test_one_answer_where_only_whole_models_can_run() -> None:
    bench = Bench()
    bench.runner.fused, bench.runner.units = True, False
    bench.runner.let(math.inf)
    await bench.backend.start()
    streaming = request(streaming=True)
    answers = [answered async for answered in bench.backend.stream(image(), streaming)]
    await bench.backend.stop(grace_s=BUDGET_S)
    assert [answered.depth for answered in answers] == [GATED_CATALOG.num_exits]
    assert isinstance(answers[0], Answered)


# ---- an answer in hand --------------------------------------------------------------------------


class Stalling(Bench):
    """An engine of two sizes on a clock that stands still. It has the answer of the smaller one in
    hand while the run of the larger one waits to be let."""

    SMALL, LARGE = "exit_1", "exit_1@1"

    def __init__(self) -> None:
        self.clock = FakeClock()
        super().__init__(
            sized_runner(self.clock),
            clock=self.clock,
            create_policy=lambda *_: Upgrades(deepest=2),
            family=SIZES,
        )

    def ask(self, streaming: bool = False) -> Request:
        now_s = self.clock()
        return Request(next(IDS), now_s, now_s + BUDGET_S, 1, NUM_EXITS, streaming)

    async def until_stalled(self) -> None:
        self.runner.let()
        await self.until(self.SMALL, self.LARGE)

    def reach(self, deadline_s: float) -> None:
        """Let the deadline come, for whoever looks at the clock."""
        self.clock.now_s = deadline_s


@pytest.fixture
async def stalling() -> AsyncIterator[Stalling]:
    made = Stalling()
    await made.backend.start()
    yield made
    made.runner.let(math.inf)
    await made.backend.stop(grace_s=BUDGET_S)


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_answer_in_hand_is_given_at_the_deadline_while_the_engine_stands_still(
    stalling: Stalling, streaming: bool
) -> None:
    asked = stalling.ask(streaming)
    async with aclosing(stalling.backend.stream(image(), asked)) as answers:
        await_first = asyncio.create_task(anext(answers))
        await stalling.until_stalled()
        in_hand = await await_first
        assert (in_hand.model, in_hand.depth) == (0, 1)
        assert stalling.backend.num_held == 1
        stalling.reach(asked.deadline_s)
        assert [answered async for answered in answers] == []
    assert stalling.recorder.results == [], "the engine does not know yet"
    stalling.runner.let()
    await stalling.until_ended(1)
    assert told(stalling) == [in_hand]
    assert stalling.backend.num_held == 0


async def test_who_waits_for_one_answer_has_the_better_one_if_it_comes_in_time(
    stalling: Stalling,
) -> None:
    detecting = asyncio.create_task(stalling.best(image(), stalling.ask()))
    await stalling.until_stalled()
    stalling.runner.let(2)
    better = await detecting
    assert (better.model, better.depth) == (1, 2)
    assert told(stalling) == [better]


async def test_who_streams_has_an_answer_of_each_size(stalling: Stalling) -> None:
    stalling.runner.let(3)
    answers = [each async for each in stalling.backend.stream(image(), stalling.ask(True))]
    assert [each.points for each in answers] == [((0, 1),), ((0, 1), (1, 1)), ((1, 2),)]
    await stalling.until_ended(1)
    assert told(stalling) == [answers[-1]]


async def test_who_hangs_up_with_an_answer_in_hand_is_cancelled(stalling: Stalling) -> None:
    detecting = asyncio.create_task(stalling.best(image(), stalling.ask()))
    await stalling.until_stalled()
    detecting.cancel()
    await asyncio.gather(detecting, return_exceptions=True)
    stalling.runner.let()
    await stalling.until_ended(1)
    assert [type(result) for result in stalling.recorder.results] == [Cancelled]


async def test_a_run_that_fails_leaves_the_answer_in_hand(stalling: Stalling) -> None:
    detecting = asyncio.create_task(stalling.best(image(), stalling.ask()))
    await stalling.until_stalled()
    stalling.runner.fail_on = frozenset({len(stalling.runner.log) + 1})
    stalling.runner.let()
    in_hand = await detecting
    assert (in_hand.model, in_hand.depth) == (0, 1)
    assert told(stalling) == [in_hand]


async def test_of_answers_that_nobody_reads_the_latest_are_kept(stalling: Stalling) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_process, "MAX_UNREAD", 1)
        async with aclosing(stalling.backend.stream(image(), stalling.ask(True))) as answers:
            await_first = asyncio.create_task(anext(answers))
            await stalling.until_stalled()
            await await_first
            stalling.runner.let(2)
            await stalling.until_ended(1)
            rest = [(each.model, each.depth) async for each in answers]
    assert rest == [(1, 2)]
