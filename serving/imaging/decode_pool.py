"""Threads that decode images, for several principals and each in time.

    header -> cost -> lane: prompt | dear -> fair queue -> thread -> pixels
                                                            |
                                    the deadline has come, the client has left, it takes too long

Images that are dear, in memory or in time, are decoded by threads of their own, and as many at once
as there is memory for. So no other image ever waits for one of them. A decoder is given its file
block by block, and between two of them it can be stopped.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TypeVar, cast

from serving.core.errors import PayloadTooLarge, RequestCancelled
from serving.core.letterbox import Letterbox, ModelInput
from serving.core.ports import Clock, Image
from serving.core.recent_values import RecentValues
from serving.imaging.cropping import RGB_BYTES, Crops, FindRegions, cut_out
from serving.imaging.decode_cost import memory_bytes, work_ns
from serving.imaging.decode_lane import Claim, Cost, Job, Lane
from serving.imaging.decoding import LazyPixels, decode_all
from serving.imaging.pixels import BLOCK_BYTES, Checkpoint
from serving.imaging.probing import KINDS, Header

T = TypeVar("T")

DEAR_S = 0.05
"""Seconds of decoding from which on an image is dear."""
DEAR_BYTES = 32 * 2**20
"""Bytes of memory from which on an image is dear, where there is as much for each thread."""
MAX_LAZY_S = 0.02
"""Most seconds of decoding that an engine's thread is left with.

Who takes longer is decoded beforehand for every input that it might be wanted for.
"""

USUAL_SCANS = 16
"""Most scans of a JPEG that many are written with."""
SMALL_BLOCK_BYTES, SMALLEST_BLOCK_BYTES = 4096, 256
"""Bytes that the decoder of a dear image is given at once, and of one with unusually many scans.

The first unpack to a few megabytes at most. The second hold some twenty scans at most.
"""

OVERRUN_FACTOR, OVERRUN_S = 8.0, 0.1
"""Multiple of its estimate, and seconds beyond, after which decoding is given up.

The estimate is of the right size (``tests/serving/imaging/test_decode_cost.py``); what takes so
much longer was made to.
"""

_WINDOW = 64
_WINDOW_S = 30.0
_SEEDS = (1.0,) * 4
"""How much slower than that of ``decode_cost`` a machine is taken to be before it is known."""
_QUANTILE = 0.5
_NUM_EXPECTED = 32
_NUM_ESTIMATES = 64
COST_VALID_S = 0.1
"""Seconds for which what an image is expected to cost is not asked for anew."""


class DecodeTimes:
    """Predictor of decode times in seconds, from those of the last half minute.

    The prediction is work, as estimated from the header, times how long this machine has lately
    taken for that of other images of the kind.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slowness = {kind: RecentValues(_WINDOW_S, _WINDOW, _SEEDS) for kind in KINDS}

    def observe(self, kind: str, work_s: float, seconds: float) -> None:
        """Learn from an image of a kind, whose decoding took ``seconds``."""
        self._slowness[kind].add(self._clock(), seconds / work_s)

    def predict(self, kind: str, work_s: float) -> float:
        """Return the seconds that half of such images are predicted not to exceed."""
        return self._slowness[kind].quantile(self._clock(), _QUANTILE) * work_s


class ExpectedInput:
    """Predictor of the input that an image is decoded for, by what its request's budget leaves.

    It is the one that an image with the most similar time left was wanted for, of the last few.
    Thread-safe.
    """

    def __init__(self, first: ModelInput) -> None:
        self._lock = threading.Lock()
        self._recent = deque([(math.inf, first)], maxlen=_NUM_EXPECTED)

    def used(self, left_s: float, model_input: ModelInput) -> None:
        """Learn from an image with ``left_s`` seconds left that was wanted for this input."""
        with self._lock:
            self._recent.append((left_s, model_input))

    def predict(self, left_s: float) -> ModelInput:
        """Return the input that an image with ``left_s`` seconds left will be wanted for."""
        with self._lock:
            newest_first = tuple(reversed(self._recent))
        return min(newest_first, key=lambda seen: abs(seen[0] - left_s))[1]


_NO_COST: tuple[Header | None, Cost, float] = (None, Cost(0.0), 0.0)
"""An image's header, what it is expected to cost, and the instant of that: of none."""


class DecodePool:
    """A pool of threads that decode (Pillow lets go of the interpreter lock).

    It never queues more than ``max_pending`` images of a lane. ``observe(format, seconds)`` is
    called for each image, ``spent(processor_seconds)`` in the threads, with all that they had a
    processor for. ``run`` is for what else a large request needs before its pixels can be looked
    at.

    With several ``inputs``, images come as ``LazyPixels`` in the frame ``model_input``, decoded for
    the input that they will probably be wanted for.
    """

    def __init__(
        self,
        model_input: ModelInput,
        *,
        inputs: Sequence[ModelInput] = (),
        num_workers: int,
        max_pending: int,
        max_bytes: int,
        clock: Clock,
        observe: Callable[[str, float], None],
        spent: Callable[[float], None] = lambda _: None,
        processor_clock: Clock = time.thread_time,
    ) -> None:
        """Make a pool of ``num_workers`` threads, and all but one as many for dear images.

        Decoding takes at most ``max_bytes`` at once. ``processor_clock`` gives the seconds that the
        calling thread has had a processor.
        """
        self._processor_clock = processor_clock
        self._input = model_input
        self._inputs = tuple(inputs) if len(inputs) > 1 else (model_input,)
        self._expected = ExpectedInput(model_input) if len(inputs) > 1 else None
        self._clock = clock
        self._observe = observe
        self._spent = spent
        self._thread = threading.local()
        self._times = DecodeTimes(clock)
        # The few questions about one image are asked in a row.
        self._estimate = lru_cache(_NUM_ESTIMATES)(
            partial(_estimated, model_input=model_input, inputs=self._inputs)
        )
        self._latest_cost = _NO_COST
        self._dear_bytes = min(DEAR_BYTES, max_bytes // (4 * num_workers))
        lane = partial(
            Lane,
            max_pending=max_pending,
            clock=clock,
            processor_clock=processor_clock,
            do=self._accounted,
        )
        prompt_bytes = num_workers * self._dear_bytes
        self._prompt = lane("decode", num_workers=num_workers, max_bytes=prompt_bytes)
        self._dear = lane(
            "decode-dear", num_workers=max(1, num_workers - 1), max_bytes=max_bytes - prompt_bytes
        )

    def predicted_s(self, header: Header) -> float:
        """Return the seconds that decoding takes on a server that does nothing else."""
        return self._cost(header).seconds

    def is_dear(self, header: Header) -> bool:
        """Return whether an image is decoded apart from the others, who do not wait for it."""
        return self._lane(self._cost(header)) is self._dear

    def check_memory(self, header: Header, num_cut_pixels: int = 0) -> None:
        """Raise PayloadTooLarge for an image that takes more memory than there is for one.

        That is with ``num_cut_pixels`` of parts that are cut out of it.
        """
        needed = self._cost(header).num_bytes + RGB_BYTES * num_cut_pixels
        given = self._dear.max_bytes
        if needed > given:
            raise PayloadTooLarge(
                f"Decoding this image would take {math.ceil(needed / 2**20)} MiB of memory; at "
                f"most {given // 2**20} MiB are given to one."
            )

    def wait_s(self, header: Header, claim: Claim) -> float:
        """Return the seconds until decoding would begin, as expected."""
        cost = self._cost(header)
        return self._lane(cost).wait_s(cost, claim)

    async def decode(
        self, data: bytes, header: Header, claim: Claim | None = None
    ) -> tuple[Image, Letterbox]:
        """Return the pixels of an image, decoded in a thread, and where it lies.

        Cancelling takes it out of the queue, or stops it. Of a stream only the newest frame waits:
        others raise FrameSuperseded. Raises Overloaded when the queue is full or the claim's time
        has passed, PayloadTooLarge for an image that takes far longer than it should, and
        InvalidImage.
        """
        claim = claim or Claim()
        left_s = claim.deadline_s - self._clock()

        def work(checkpoint: Checkpoint, block_bytes: int) -> tuple[Image, Letterbox]:
            return self._decode(data, header, left_s, checkpoint, block_bytes)

        return await self._decoded(work, header, claim)

    async def cut(
        self,
        data: bytes,
        header: Header,
        regions: FindRegions,
        num_pixels: int,
        claim: Claim | None = None,
    ) -> Crops:
        """Return the parts of an image at its own size, decoded and cut out in a thread.

        They have ``num_pixels`` together, about; ``header`` says that it is whole. Waits and raises
        as ``decode``, and what ``regions`` does.
        """
        work = partial(cut_out, data, header, regions)
        return await self._decoded(work, header, claim or Claim(), RGB_BYTES * num_pixels)

    async def _decoded(
        self,
        work: Callable[[Checkpoint, int], T],
        header: Header,
        claim: Claim,
        more_bytes: int = 0,
    ) -> T:
        """Return what ``work`` makes of an image in a thread, given a checkpoint and a block size.

        What it makes takes ``more_bytes`` of memory, beside what decoding takes.
        """
        cost = self._cost(header)
        cost = replace(cost, num_bytes=cost.num_bytes + more_bytes)
        limit_s = cost.seconds * OVERRUN_FACTOR + OVERRUN_S
        block_bytes = _block_bytes(header, cost.seconds)

        def timed(stopped: Checkpoint) -> tuple[T, float, float]:
            started_s, before_s = self._clock(), self._processor_clock()

            def checkpoint() -> None:
                stopped()
                if self._processor_clock() - before_s > limit_s:
                    raise PayloadTooLarge(
                        "Decoding this image takes far longer than that of others like it; it was "
                        "given up."
                    )

            result = work(checkpoint, block_bytes)
            processor_s = self._processor_clock() - before_s
            return result, self._clock() - started_s, processor_s

        result, seconds, processor_s = await self._run(Job(timed, cost, claim))
        # By the clock it takes longer when others want the processor, which is no reason to call a
        # budget too small for an idle server.
        self._times.observe(header.coding.kind, self._estimate(header).work_s, processor_s)
        self._latest_cost = _NO_COST
        self._observe(header.format, seconds)
        return result

    async def run(
        self, work: Callable[[Checkpoint], T], expected_s: float, claim: Claim | None = None
    ) -> T:
        """Return what ``work`` returns, called in a thread with a checkpoint.

        It is to take ``expected_s`` seconds. Cancelling takes it out of the queue, or ends it at a
        checkpoint. Raises Overloaded when the queue is full, and whatever ``work`` raises.
        """
        # What comes before an image's turn is not to wait for the images.
        claim = claim or Claim(deadline_s=self._clock())
        return await self._run(Job(work, Cost(expected_s), claim))

    def close(self) -> None:
        """Drop what waits, stop what is being decoded, and let the threads end."""
        self._prompt.close()
        self._dear.close()

    def _lane(self, cost: Cost) -> Lane:
        is_dear = cost.seconds > DEAR_S or cost.num_bytes > self._dear_bytes
        return self._dear if is_dear else self._prompt

    def _cost(self, header: Header) -> Cost:
        """Return what decoding an image is expected to cost; it is asked for several times in a
        row."""
        now_s, (costed, cost, at_s) = self._clock(), self._latest_cost
        if costed is not header or now_s - at_s > COST_VALID_S:
            cost = self._expect(header)
            self._latest_cost = header, cost, now_s
        return cost

    def _expect(self, header: Header) -> Cost:
        estimate = self._estimate(header)
        seconds = self._times.predict(header.coding.kind, estimate.work_s)
        return Cost(seconds, estimate.num_bytes)

    def _run(self, job: Job[T]) -> Awaitable[T]:
        if job.claim.stream:
            # It takes the older one's place: by its own deadline it would be behind all others
            # again, each time that another came, and its stream might never have a turn.
            for lane in (self._prompt, self._dear):
                job.due_s = min(job.due_s, lane.supersede(job.claim))
        return self._lane(job.cost).run(job)

    def _decode(
        self,
        data: bytes,
        header: Header,
        left_s: float,
        checkpoint: Checkpoint,
        block_bytes: int,
    ) -> tuple[Image, Letterbox]:
        expected = self._expected
        if expected is None:
            decoded = decode_all(data, header, self._inputs, checkpoint, block_bytes)
            return decoded[self._input]
        is_lazy = self._estimate(header).is_lazy
        inputs = (expected.predict(left_s),) if is_lazy else self._inputs
        decoded = decode_all(data, header, inputs, checkpoint, block_bytes)
        _, placed = decoded[inputs[0]]
        pixels = {model_input: pixels for model_input, (pixels, _) in decoded.items()}
        lazy = LazyPixels(data, header, self._input, pixels, partial(expected.used, left_s))
        # Between here and the family's runner nobody looks into an image.
        return cast(Image, lazy), self._input.place(placed.original_width, placed.original_height)

    def _accounted(self, job: Job[T]) -> T:
        """Return what a job does, and account for this thread's time since the last call."""

        def stopped() -> None:
            if job.is_stopped:
                raise RequestCancelled("Nobody waits for this image any longer.")

        try:
            stopped()
            return job.work(stopped)
        finally:
            now_s = self._processor_clock()
            self._spent(now_s - getattr(self._thread, "accounted_s", 0.0))
            self._thread.accounted_s = now_s


@dataclass(frozen=True, slots=True)
class _Estimate:
    """What an image costs on the machine of ``decode_cost``."""

    work_s: float
    num_bytes: int
    is_lazy: bool
    """Whether it is decoded for one input, and for another when it is wanted there."""


def _estimated(header: Header, model_input: ModelInput, inputs: Sequence[ModelInput]) -> _Estimate:
    work_s, num_bytes = work_ns(header, (model_input,)) * 1e-9, memory_bytes(header, model_input)
    # An engine's thread is not to find out, either, whether all of an image is there.
    is_lazy = work_s <= MAX_LAZY_S and not header.coding.lacks_end
    return _Estimate(work_s if is_lazy else work_ns(header, inputs) * 1e-9, num_bytes, is_lazy)


def _block_bytes(header: Header, expected_s: float) -> int:
    """Return how many bytes of the file the decoder is to be given at once."""
    if header.format == "jpeg" and header.coding.num_scans > USUAL_SCANS:
        return SMALLEST_BLOCK_BYTES
    return SMALL_BLOCK_BYTES if expected_s > DEAR_S else BLOCK_BYTES
