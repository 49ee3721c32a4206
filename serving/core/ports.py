"""Ports of the core: what it asks of the outside, each small enough to fake in ten lines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serving.core.errors import BackendUnavailable
from serving.core.family import Family
from serving.core.ladder import Ladder
from serving.core.policy import Policy
from serving.core.request import Answered, Detections, Request, Result
from serving.core.segment import Segment

Clock = Callable[[], float]
"""Function that returns the seconds of a monotonic clock."""

Image = npt.NDArray[np.uint8]
"""Array of shape ``(input_height, input_width, 3)``, RGB, letterboxed or stretched: what the stem
takes."""

CreatePolicy = Callable[[Collection[Segment], Ladder, Sequence[int], int], Policy]
"""Function (what can be run, operating points, batch sizes, most cohorts at once) -> the policy of
one executor. Raises ValueError if it cannot do with these."""


Pause = Callable[[], None]
"""Function that returns when something may be done once that holds up the rest of the process."""


def no_pause() -> None:
    """Do not pause: a ``Pause`` where nobody is held up."""


class SegmentRunner(Protocol):
    """A runtime on one device, which runs one segment at a time.

    A batch is opaque to its caller and its features stay on the device. Not thread-safe.
    """

    runtime: str
    """Name and version of the runtime, such as ``openvino 2026.4.1``."""

    @property
    def segments(self) -> frozenset[Segment]:
        """Segments that this repository and runtime can run.

        They are every unit segment, with or without fused exits, or else every fused exit. Nothing
        else can be scheduled.
        """

    batch_sizes: tuple[int, ...]
    """Batch sizes that it runs most efficiently, smallest first, from 1 to the largest it takes."""

    def load(self, images: Sequence[Image]) -> Any:
        """Return a batch of images, in this order. Raises ValueError on a wrong shape or dtype."""

    def run(self, segment: Segment, batch: Any) -> Any:
        """Return the features or detections of ``batch``, which stays valid.

        Raises ValueError when the batch is not what the segment takes.
        """

    def select(self, batch: Any, rows: Sequence[int]) -> Any:
        """Return a batch of these rows of a batch of features, in this order.

        ``batch`` stays valid. Raises ValueError when it is not of features, when it has no such
        rows, or when there are more rows than the largest batch has.
        """

    def merge(self, batches: Sequence[Any]) -> Any:
        """Return a batch of all rows of these batches of features, in their order.

        They are all at one depth, and stay valid. Raises ValueError when there are fewer than two,
        when they are not features or differ in depth, or when there are more rows than the largest
        batch has.
        """

    def release(self, batch: Any) -> None:
        """Give the batch's memory back; it must not be used again. A second time does nothing."""

    def detections(self, batch: Any) -> list[Detections]:
        """Return the rows of a batch that has been through a head, copied out of the device."""

    def abort(self) -> None:
        """Let the call under way return, or raise, if that can be done; from any thread.

        The runner is of no further use.
        """

    def close(self, pause: Pause = no_pause, /) -> None:
        """Free everything; any later call raises RuntimeError.

        ``pause`` is called before each part of it that holds up the rest of the process.
        """


class Observer(Protocol):
    """An observer of everything an executor does, told in its thread.

    It must be quick and must not raise.
    """

    def ran(self, segment: Segment, batch: int, predicted_s: float, seconds: float) -> None:
        """Take note of a run: a segment at a batch size.

        ``seconds`` are from the decision to the hand-over of what came out, ``predicted_s`` what
        they were predicted not to exceed.
        """

    def decided(self, seconds: float) -> None:
        """Take note of a decision that the policy took so many seconds for."""

    def spent(self, part: str, processor_s: float) -> None:
        """Take note of processor time of the executor's thread outside the runs of segments.

        ``part`` is one of ``observing.DECISION`` and ``observing.EXECUTOR``.
        """

    def ended(self, result: Result) -> None:
        """Take note of how a request ended; called exactly once for each."""

    def failed(self, kind: str) -> None:
        """Take note of a failure inside the engine, one of ``observing.FAULTS``; from any thread.

        Which requests it ended, if any, ``ended`` tells.
        """


class Occupancy(Protocol):
    """Who is inside an engine, and how long it takes: what admission goes by."""

    @property
    def num_waiting(self) -> int:
        """Number of requests that no segment has run for."""

    @property
    def num_in_flight(self) -> int:
        """Number of requests with features on the device."""

    @property
    def num_held(self) -> int:
        """Number of requests with an answer in hand that may have a better one."""

    def predicted_s(self, depth: int, model: int | None = None) -> float:
        """Return the seconds that an idle engine typically takes from an image to exit ``depth``.

        The exit is that of ``model``, or of whichever is there first.
        """

    def tail_s(self, depth: int, model: int | None = None) -> float:
        """Return the seconds that the engine, as it is now, seldom exceeds to exit ``depth``.

        They are those of one image by itself, to the exit of ``model``, or of whichever is there
        first.
        """


class Backend(Occupancy, Protocol):
    """An engine, wherever it runs, that the gateway sends its images to."""

    family: Family

    @property
    def ready(self) -> bool:
        """True if a request would be answered now."""

    @property
    def absence(self) -> BackendUnavailable:
        """Error of a request that comes while it is not ready."""

    @property
    def alive(self) -> bool:
        """False if it will not recover, so that the process had better be restarted."""

    @property
    def num_instances(self) -> int:
        """Number of runs that may be under way at a time."""

    async def start(self) -> None:
        """Load, warm up, and become ready. Raises BackendError if it never will."""

    async def stop(self, grace_s: float) -> None:
        """Refuse new requests, let those in flight end for up to ``grace_s``, free everything."""

    def stream(self, image: Image, request: Request) -> AsyncGenerator[Answered, None]:
        """Yield each answer as it comes, at least one, each better than those before.

        A streaming request is answered at every exit; any may be answered again at a larger input.
        Once there is an answer, it ends by the request's deadline, whatever the engine does.
        Closing it, or cancelling the asyncio task that awaits the next one, cancels the request at
        the next segment boundary; who is slow to take an answer delays nobody. Raises as
        ``detect``.
        """
