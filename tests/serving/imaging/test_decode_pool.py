from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from serving.core.errors import (
    FrameSuperseded,
    InvalidImage,
    Overloaded,
    PayloadTooLarge,
    ShedReason,
)
from serving.core.letterbox import Letterbox, ModelInput
from serving.imaging.decode_lane import Claim
from serving.imaging.decode_pool import (
    DEAR_BYTES,
    DEAR_S,
    OVERRUN_FACTOR,
    OVERRUN_S,
    DecodePool,
    DecodeTimes,
    ExpectedInput,
)
from serving.imaging.decoding import load_image, refit
from serving.imaging.probing import BASELINE, KINDS, MULTI_SCAN, PNG, Header, probe
from tests.e2e.process import PATIENCE_S
from tests.serving.fakes import FakeClock, encode, picture
from tests.serving.imaging.files import flat_png, flat_webp, photograph, samples, with_scans

pytestmark = pytest.mark.anyio

SAMPLES = samples(64, 48)
MEBIBYTE = 2**20


async def until(condition: Callable[[], Any]) -> None:
    """Wait until ``condition`` holds, and let everybody else go on meanwhile."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def letterboxed(width: int, height: int) -> ModelInput:
    return ModelInput(width, height, "letterbox")


class TestTimes:
    def test_starts_from_a_seed_and_follows_what_is_seen(self) -> None:
        times = DecodeTimes(FakeClock())
        before_s = times.predict(PNG, 0.01)
        assert 0.01 <= before_s < 0.1
        for _ in range(20):
            times.observe(PNG, 0.01, 10 * before_s)
        assert times.predict(PNG, 0.01) == pytest.approx(10 * before_s)

    def test_is_in_proportion_to_the_work_and_knows_kinds_apart(self) -> None:
        times = DecodeTimes(FakeClock())
        before_s = times.predict(MULTI_SCAN, 1.0)
        assert times.predict(MULTI_SCAN, 3.0) == pytest.approx(3 * before_s)
        for _ in range(20):
            times.observe(BASELINE, 0.01, 1.0)
        assert times.predict(MULTI_SCAN, 1.0) == before_s

    @pytest.mark.parametrize("kind", KINDS)
    def test_one_slow_image_changes_nothing(self, kind: str) -> None:
        times = DecodeTimes(FakeClock())
        before_s = times.predict(kind, 1.0)
        times.observe(kind, 1.0, 100 * before_s)
        assert times.predict(kind, 1.0) == before_s

    def test_forgets_by_time_alone(self) -> None:
        clock = FakeClock()
        times = DecodeTimes(clock)
        before_s = times.predict(PNG, 1.0)
        for _ in range(100):
            times.observe(PNG, 1.0, 500.0)
        clock.now += 31
        assert times.predict(PNG, 1.0) == before_s


def test_the_expected_input_is_that_of_who_had_as_much_time() -> None:
    small, middle, large = (letterboxed(side, side) for side in (172, 300, 428))
    expected = ExpectedInput(large)
    assert expected.predict(0.02) == large, "nothing is known yet"
    expected.used(0.02, small)
    expected.used(0.1, middle)
    assert [expected.predict(left_s) for left_s in (0.01, 0.04, 0.09, 5.0)] == [
        *(small, small),
        *(middle, middle),
    ]
    expected.used(0.02, middle)
    assert expected.predict(0.02) == middle, "the newest of those who had as much"


@pytest.fixture
def make() -> Iterator[Callable[..., DecodePool]]:
    """Make pools with these options, which are closed at the end."""
    pools = []

    def pool(**options: Any) -> DecodePool:
        defaults: dict[str, Any] = {
            "num_workers": 1,
            "max_pending": 1,
            "max_bytes": 512 * MEBIBYTE,
            "clock": FakeClock(),
            "observe": lambda *_: None,
            "processor_clock": lambda: 0.0,
        }
        pools.append(DecodePool(letterboxed(64, 48), **(defaults | options)))
        return pools[-1]

    yield pool
    for each in pools:
        each.close()


Make = Callable[..., DecodePool]
PNG_DATA = SAMPLES["png"]


class Gate:
    """Stands in for ``decode_all``: notes who comes, in their order, and lets them pass when told.
    An image's bytes are its name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came: list[bytes] = []
        self.passes = threading.Semaphore(0)
        monkeypatch.setattr("serving.imaging.decode_pool.decode_all", self._decode)

    def _decode(self, data: bytes, header: Header, inputs: Any, checkpoint: Any, *_: Any) -> Any:
        self.came.append(data)
        while not self.passes.acquire(timeout=0.001):
            checkpoint()
        pixels = np.zeros((48, 64, 3), np.uint8)
        return {each: (pixels, Letterbox(1, 1, 1, 1)) for each in inputs}

    def open(self, count: int = 1) -> None:
        self.passes.release(count)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


SMALL = Header.typical("jpeg", 64, 48)
LARGE = Header.typical("png", 5000, 5000)


def start(pool: DecodePool, name: bytes, header: Header = SMALL, **claim: Any) -> asyncio.Task:
    return asyncio.ensure_future(pool.decode(name, header, Claim(**claim)))


class TestDecoding:
    async def test_decodes_and_tells(self, make: Make) -> None:
        seen: list[tuple[str, float]] = []
        pool = make(observe=lambda *told: seen.append(told))
        pixels, _ = await pool.decode(PNG_DATA, probe(PNG_DATA))
        assert (pixels == picture(64, 48)).all()
        assert seen == [("png", 0.0)]

    async def test_lazily_for_the_input_that_was_wanted_last(self, make: Make) -> None:
        frame, small = letterboxed(64, 48), letterboxed(32, 24)
        pool = make(inputs=(small, frame))
        images: list[Any] = []
        for _ in range(2):
            image, placement = await pool.decode(PNG_DATA, probe(PNG_DATA), Claim(1000.1))
            assert placement == frame.place(64, 48)
            assert (refit(image, small) == load_image(PNG_DATA, small)[0]).all()
            images.append(image)
        first, second = images
        assert set(first._decoded) == {frame, small}
        assert set(second._decoded) == {small}

    @pytest.mark.parametrize("name", SAMPLES)
    async def test_what_takes_long_is_decoded_for_every_input_beforehand(
        self, make: Make, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An engine's thread is not to do it, and pixels are those of one input by itself."""
        monkeypatch.setattr("serving.imaging.decode_pool.MAX_LAZY_S", 0.0)
        inputs = (letterboxed(8, 6), letterboxed(32, 24), letterboxed(64, 48))
        pool = make(inputs=inputs)
        decoded: Any = await pool.decode(SAMPLES[name], probe(SAMPLES[name]))
        image, placement = decoded
        assert placement == inputs[-1].place(64, 48)
        assert set(image._decoded) == set(inputs)
        for each in inputs:
            assert (refit(image, each) == load_image(SAMPLES[name], each)[0]).all()

    async def test_lazily_decoding_refuses_what_is_damaged_at_once(self, make: Make) -> None:
        pool = make(inputs=(letterboxed(32, 24), letterboxed(64, 48)))
        with pytest.raises(InvalidImage):
            await pool.decode(SAMPLES["jpeg"][:-300], probe(SAMPLES["jpeg"]))

    async def test_accounts_for_all_that_its_thread_computes(self, make: Make) -> None:
        spent: list[float] = []
        instants = iter(n * 1e-6 for n in range(1000))
        last = [0.0]

        def processor_clock() -> float:
            last[0] = next(instants)
            return last[0]

        pool = make(spent=spent.append, processor_clock=processor_clock)
        for count in (1, 2):
            await pool.decode(PNG_DATA, probe(PNG_DATA))
            assert len(spent) == count
        # All that it had of its processor is accounted for once, but for what came after the last.
        assert last[0] - 3e-6 <= sum(spent) <= last[0]

    async def test_errors_come_through_and_free_the_slot(self, make: Make) -> None:
        pool = make()
        for _ in range(5):
            with pytest.raises(InvalidImage):
                await pool.decode(SAMPLES["jpeg"][:-300], probe(SAMPLES["jpeg"]))


class TestTurns:
    async def test_refuses_when_full_and_recovers(self, make: Make, gate: Gate) -> None:
        pool = make()
        running, waiting = start(pool, b"1"), start(pool, b"2")
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await pool.decode(b"3", SMALL)
        assert refused.value.reason is ShedReason.REJECTED_SATURATED
        assert refused.value.retry_after_s > 0
        waiting.cancel()  # a client that left makes room at once
        await asyncio.gather(waiting, return_exceptions=True)
        replacement = start(pool, b"4")
        await asyncio.sleep(0)
        gate.open(2)
        await asyncio.gather(running, replacement)
        assert gate.came == [b"1", b"4"]

    async def test_what_is_due_first_is_decoded_first(self, make: Make, gate: Gate) -> None:
        pool = make(max_pending=9)
        first = start(pool, b"running", deadline_s=2000.0)
        await until(lambda: gate.came)
        others = [start(pool, b"%d" % due, deadline_s=1000.0 + due) for due in (3, 1, 4, 2)]
        await asyncio.sleep(0)
        gate.open(5)
        await asyncio.gather(first, *others)
        assert gate.came == [b"running", b"1", b"2", b"3", b"4"]

    async def test_principals_take_turns(self, make: Make, gate: Gate) -> None:
        pool = make(max_pending=9, processor_clock=lambda: 0.001 * len(gate.came))
        flood = [start(pool, b"flood", deadline_s=1001.0, principal="a") for _ in range(6)]
        await until(lambda: gate.came)
        rare = start(pool, b"rare", deadline_s=1009.0, principal="b")
        await asyncio.sleep(0)
        gate.open(7)
        await asyncio.gather(*flood, rare)
        assert gate.came.index(b"rare") <= 2

    async def test_a_full_queue_is_full_for_whoever_filled_it(self, make: Make, gate: Gate) -> None:
        pool = make(max_pending=3)
        flood = [start(pool, b"%d" % n, deadline_s=1001.0 + n, principal="a") for n in range(4)]
        await until(lambda: gate.came)
        other = start(pool, b"other", principal="b")
        await asyncio.sleep(0)
        gate.open(9)
        results = await asyncio.gather(*flood, other, return_exceptions=True)
        assert [isinstance(result, Overloaded) for result in results] == [*[False] * 3, True, False]

    async def test_what_can_no_longer_be_in_time_is_dropped(self, make: Make, gate: Gate) -> None:
        clock = FakeClock()
        pool = make(clock=clock)
        running = start(pool, b"running")
        await until(lambda: gate.came)
        late = start(pool, b"late", deadline_s=clock.now + 2, latest_start_s=clock.now + 1)
        await asyncio.sleep(0)
        clock.now += 1.5
        gate.open()
        with pytest.raises(Overloaded) as shed:
            await late
        assert shed.value.reason is ShedReason.REJECTED_EXPIRED
        await running
        assert gate.came == [b"running"]

    async def test_who_finds_a_thread_idle_is_not_late_yet(self, make: Make, gate: Gate) -> None:
        clock = FakeClock()
        pool = make(clock=clock)
        gate.open()
        await start(pool, b"tight", deadline_s=clock.now, latest_start_s=clock.now - 1)

    async def test_the_wait_is_what_is_decoded_before(self, make: Make, gate: Gate) -> None:
        clock = FakeClock()
        pool = make(max_pending=9, clock=clock)
        claim = Claim(deadline_s=2000.0)
        assert pool.wait_s(SMALL, claim) == 0.0
        each_s = pool.predicted_s(SMALL)
        tasks = [start(pool, b"%d" % n, deadline_s=1500.0) for n in range(3)]
        await until(lambda: gate.came)
        assert pool.wait_s(SMALL, claim) == pytest.approx(3 * each_s)
        assert pool.wait_s(SMALL, Claim(1400.0)) == pytest.approx(each_s), "due before them"
        assert pool.wait_s(LARGE, claim) == 0.0, "another lane"
        clock.now += each_s / 2
        assert pool.wait_s(SMALL, claim) == pytest.approx(2.5 * each_s)
        gate.open(3)
        await asyncio.gather(*tasks)

    async def test_long_messages_are_read_before_images_that_wait(
        self, make: Make, gate: Gate
    ) -> None:
        pool = make(max_pending=9)
        order: list[str] = []
        images = [start(pool, b"%d" % n, deadline_s=1010.0) for n in range(3)]
        await until(lambda: gate.came)
        read = asyncio.ensure_future(pool.run(lambda _: order.append(str(len(gate.came))), 0.001))
        await asyncio.sleep(0)
        gate.open(3)
        await asyncio.gather(*images, read)
        assert order == ["1"]


class TestStreams:
    async def test_of_each_only_the_newest_frame_waits(self, make: Make, gate: Gate) -> None:
        """Other principals' streams of that name, and what is no frame, wait beside it; so does a
        dear frame, in its own lane, for as long as it is the newest."""
        pool = make(max_pending=9)
        frame: dict[str, Any] = {"principal": "a", "stream": "cam"}
        running = [start(pool, b"running"), start(pool, b"dear", LARGE)]
        await until(lambda: len(gate.came) == 2)
        old = [start(pool, b"1", **frame), start(pool, b"2", LARGE, **frame)]
        others = [start(pool, b"3", **frame), start(pool, b"b", principal="b", stream="cam")]
        others += [start(pool, b"single", principal="a") for _ in range(2)]
        for each in old:
            with pytest.raises(FrameSuperseded):
                await each
        gate.open(6)
        await asyncio.gather(*running, *others)
        assert sorted(gate.came[2:]) == [b"3", b"b", b"single", b"single"]

    async def test_a_newer_one_has_the_turn_of_the_older(self, make: Make, gate: Gate) -> None:
        """Or a camera faster than the others would always be behind them."""
        pool = make(max_pending=9)
        running = start(pool, b"running")
        await until(lambda: gate.came)
        fast = [start(pool, b"1", deadline_s=1001.0, stream="fast")]
        others = [start(pool, b"other", deadline_s=1002.0, stream="other")]
        fast += [start(pool, b"%d" % n, deadline_s=1001.0 + n, stream="fast") for n in (2, 3)]
        await asyncio.sleep(0)
        gate.open(3)
        await asyncio.gather(running, *others, fast[-1])
        await asyncio.gather(*fast, return_exceptions=True)
        assert gate.came == [b"running", b"3", b"other"]

    async def test_one_that_is_being_decoded_goes_on(self, make: Make, gate: Gate) -> None:
        pool = make(max_pending=9)
        first = start(pool, b"1", stream="cam")
        await until(lambda: gate.came)
        second = start(pool, b"2", stream="cam")
        gate.open(2)
        await asyncio.gather(first, second)


class TestDear:
    async def test_nobody_else_waits_for_a_dear_image(self, make: Make, gate: Gate) -> None:
        pool = make(max_pending=9)
        assert pool.is_dear(LARGE)
        assert not pool.is_dear(SMALL)
        dear = [start(pool, b"dear", LARGE) for _ in range(4)]
        await until(lambda: gate.came)
        small = start(pool, b"small")
        await until(lambda: b"small" in gate.came)
        assert gate.came == [b"dear", b"small"], "and no more than one of those at once"
        gate.open(5)
        await asyncio.gather(*dear, small)

    @pytest.mark.parametrize("max_mebibytes", [64, 128, 512, 4096])
    @pytest.mark.parametrize("num_workers", [1, 2, 8, 256])
    async def test_images_take_turns_for_memory(
        self, make: Make, gate: Gate, max_mebibytes: int, num_workers: int
    ) -> None:
        max_bytes = max_mebibytes * MEBIBYTE
        pool = make(num_workers=num_workers, max_pending=99, max_bytes=max_bytes)
        sides = (300, 1000, 1700, 2500, 3300)
        headers = [Header.typical("png", side, side) for side in sides]
        fitting = []
        for header in headers:
            try:
                pool.check_memory(header)
            except PayloadTooLarge:
                continue
            fitting.append(header)
        assert fitting
        tasks = [start(pool, b"%d" % n, fitting[n % len(fitting)]) for n in range(40)]
        peak = 0
        for _ in tasks:
            await until(lambda: len(gate.came) > 0)
            running = [*pool._prompt._running, *pool._dear._running]
            peak = max(peak, sum(job.cost.num_bytes for job in running))
            gate.open()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert 0 < peak <= max_bytes

    async def test_refuses_what_takes_more_memory_than_there_is(self, make: Make) -> None:
        pool = make(max_bytes=64 * MEBIBYTE)
        with pytest.raises(PayloadTooLarge, match="MiB"):
            pool.check_memory(probe(flat_webp(5000, 5000)))
        pool.check_memory(probe(flat_webp(640, 480)))

    async def test_is_by_memory_and_by_time(self, make: Make) -> None:
        pool = make()
        assert pool.is_dear(probe(flat_png(1, 4_000_000)))
        costly = probe(with_scans(samples(640, 480)["jpeg-progressive"], 500))
        assert pool.predicted_s(costly) > DEAR_S
        assert pool.is_dear(costly)
        large = Header.typical("webp", 2000, 1200)
        assert pool._cost(large).num_bytes > DEAR_BYTES
        assert pool.is_dear(large)


BLOCKS = {
    "jpeg-progressive": with_scans(samples(640, 480)["jpeg-progressive"], 400),
    "png": encode(photograph(320, 240), "PNG"),
}
"""Files that are decoded in several blocks."""


class TestStopping:
    @pytest.mark.parametrize("name", BLOCKS)
    async def test_stops_a_decoder_when_nobody_waits(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr("serving.imaging.decode_pool.SMALL_BLOCK_BYTES", 256)
        monkeypatch.setattr("serving.imaging.decode_pool.BLOCK_BYTES", 256)
        started, cancelled, steps = threading.Event(), threading.Event(), []

        def processor_clock() -> float:
            """Comes by at every checkpoint; at the third, the client leaves."""
            if threading.current_thread().name.startswith("decode"):
                steps.append(1)
                if len(steps) == 6:
                    started.set()
                    cancelled.wait()
            return 0.0

        pool = make(processor_clock=processor_clock)
        data = BLOCKS[name]
        task = asyncio.ensure_future(pool.decode(data, probe(data)))
        await asyncio.to_thread(started.wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        cancelled.set()
        await until(lambda: not pool._prompt._running and not pool._dear._running)
        assert len(steps) < len(data) / 256 / 2
        assert task.cancelled()

    @pytest.mark.parametrize("name", BLOCKS)
    async def test_gives_up_what_takes_far_longer_than_expected(
        self, make: Make, name: str
    ) -> None:
        now = [0.0]

        def processor_clock() -> float:
            now[0] += slow_s
            return now[0]

        pool = make(processor_clock=processor_clock)
        data = BLOCKS[name]
        slow_s = OVERRUN_FACTOR * pool.predicted_s(probe(data)) + OVERRUN_S
        with pytest.raises(PayloadTooLarge, match="far longer"):
            await pool.decode(data, probe(data))

    async def test_what_ends_early_leaves_no_pixels_behind(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Pixels:
            """Something that can be told to be gone."""

        there: list[weakref.ref[Pixels]] = []

        def fail(*_: Any) -> Any:
            pixels = Pixels()
            there.append(weakref.ref(pixels))
            raise InvalidImage("It is damaged.")

        monkeypatch.setattr("serving.imaging.decode_pool.decode_all", fail)
        pool = make()
        gc.disable()
        try:
            with pytest.raises(InvalidImage):
                await pool.decode(PNG_DATA, probe(PNG_DATA))
            await until(lambda: not pool._prompt._running)
            assert there[0]() is None
        finally:
            gc.enable()

    async def test_closing_stops_what_runs_and_drops_what_waits(
        self, make: Make, gate: Gate
    ) -> None:
        pool = make()
        running, waiting = start(pool, b"1"), start(pool, b"2")
        await until(lambda: gate.came)
        pool.close()
        results = await asyncio.gather(running, waiting, return_exceptions=True)
        assert all(isinstance(result, BaseException) for result in results)
        await until(lambda: not pool._prompt._running)


def test_thread_time_is_what_it_charges_by_default() -> None:
    """Not the clock on the wall: a busy machine is nobody's fault."""
    defaults: Any = DecodePool.__init__.__kwdefaults__
    assert defaults["processor_clock"] is time.thread_time


class TestThreads:
    async def test_they_end_with_the_pool_closed_or_not(self) -> None:
        before = set(threading.enumerate())
        pool = DecodePool(
            letterboxed(64, 48),
            num_workers=2,
            max_pending=1,
            max_bytes=512 * MEBIBYTE,
            clock=FakeClock(),
            observe=lambda *_: None,
        )
        await pool.decode(PNG_DATA, probe(PNG_DATA))
        assert set(threading.enumerate()) - before
        del pool

        def are_gone() -> bool:
            gc.collect()
            return not set(threading.enumerate()) - before

        await until(are_gone)

    async def test_a_closed_pool_takes_nothing(self, make: Make) -> None:
        pool = make()
        pool.close()
        with pytest.raises(Overloaded) as refused:
            await pool.decode(PNG_DATA, probe(PNG_DATA))
        assert refused.value.reason is ShedReason.REJECTED_DRAINING
