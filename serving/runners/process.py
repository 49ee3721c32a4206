"""Runners in a process of their own: what crashes or hangs there does not take this one with it.

    load      images into memory that both share     nothing is sent
    run       segment, images or features            boxes come back; features stay there
    release   noted, and sent with what is sent next

The other process is ``serving.models.engine_process``. All of it is one engine, which runs one
segment at a time, and so are all its runners here, one for each model. When it has gone, by itself
or by ``abort``, every call raises EngineLost.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.core import segment as segments
from serving.core.errors import EngineLost
from serving.core.ports import Image, Pause, no_pause
from serving.core.request import Detections
from serving.core.segment import Segment
from serving.runners.checks import check_images, check_merge, check_segment, check_select

NUM_BATCHES = 2
"""Batches of images in shared memory at once, of one model: one is run, and one may be loaded."""
CLOSE_WITHIN_S = 5.0
"""Seconds that the other process is given to end by itself."""


@dataclass(frozen=True)
class Facts:
    """What the other process says of one of its runners."""

    runtime: str
    segments: frozenset[Segment]
    batch_sizes: tuple[int, ...]
    image_shape: tuple[int, int, int]

    @property
    def num_slots(self) -> int:
        """Number of images in shared memory at once."""
        return NUM_BATCHES * self.batch_sizes[-1]

    @property
    def num_bytes(self) -> int:
        """Bytes that they take."""
        return self.num_slots * math.prod(self.image_shape)


def slots_of(facts: Facts, memory: Any, offset: int) -> npt.NDArray[np.uint8]:
    """Return the images of one runner in shared ``memory``, from ``offset`` on, as (N, H, W, 3)."""
    shape = (facts.num_slots, *facts.image_shape)
    slots: npt.NDArray[np.uint8] = np.ndarray(shape, np.uint8, memory, offset)
    return slots


Place = int | Image
"""Place of an image: its number in shared memory; where that is full, the image itself."""


@dataclass(slots=True, eq=False)
class Batch:
    """A batch, of which the images or features lie elsewhere."""

    size: int
    depth: int
    """Depth of the features, or of the exit of detections; ``segments.IMAGE`` for images."""
    features: bool
    """True if they are features: neither images nor detections."""
    slots: tuple[Place, ...] = ()
    """Places of images."""
    handle: int | None = None
    """Number of features in the other process."""
    detections: list[Detections] = field(default_factory=list)


class EngineProcess:
    """The other process: one call at a time, answered in order."""

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self._process = process
        self._connection = connection
        self._handles = itertools.count()
        self._dropped: list[int] = []
        self._ending = threading.Lock()

    def new_handle(self) -> int:
        """Return a number for features that nothing has had before."""
        return next(self._handles)

    def drop(self, handle: int) -> None:
        """Let features go, when something is sent next."""
        self._dropped.append(handle)

    def call(self, *message: Any, within_s: float | None = None) -> Any:
        """Return what the other process makes of ``message``.

        Raises EngineLost when it has gone, or was ended since it did not answer within ``within_s``
        seconds, and RuntimeError for what a runtime raised there.
        """
        dropped, self._dropped = self._dropped, []
        try:
            self._connection.send((dropped, message))
            if within_s is not None and not self._connection.poll(within_s):
                raise TimeoutError
            failure, reply = self._connection.recv()
        except (EOFError, OSError) as error:
            code = self.end(0.0)
            raise EngineLost(f"The engine's process ended with {code}.") from error
        if failure is not None:
            raise RuntimeError(failure)
        return reply

    def end(self, within_s: float) -> int:
        """End the process, by force unless it ends by itself in time; return its exit code."""
        with self._ending:
            try:
                return self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                return self._process.wait()

    def abort(self) -> None:
        """End the process at once; whoever waits for its answer gets EngineLost."""
        self._process.kill()

    def close(self) -> None:
        """Tell the process to end, and see that it does."""
        self._connection.close()
        self.end(CLOSE_WITHIN_S)


class ProcessRunner:
    """A ``SegmentRunner`` over number ``model`` of the runners in another process."""

    def __init__(
        self, engine: EngineProcess, model: int, facts: Facts, slots: npt.NDArray[np.uint8]
    ) -> None:
        self.runtime = facts.runtime
        self.segments = facts.segments
        self.batch_sizes = facts.batch_sizes
        self._engine = engine
        self._model = model
        self._slots = slots
        self._free = list(range(len(slots)))
        self._closed = False

    def load(self, images: Sequence[Image]) -> Batch:
        """Return a batch of images, copied into shared memory."""
        self._check_open()
        check_images(images, self._slots.shape[1:], self.batch_sizes[-1])
        return Batch(len(images), segments.IMAGE, False, tuple(map(self._placed, images)))

    def run(self, segment: Segment, batch: Batch) -> Batch:
        """Have the segment run, and wait for it without the interpreter lock."""
        self._check_open()
        check_segment(segment, batch.depth, self.segments)
        given = batch.slots if batch.handle is None else batch.handle
        if segment.head:
            found = self._engine.call("boxes", self._model, segment, given)
            return Batch(batch.size, segment.stop, False, detections=found)
        return self._kept("features", batch.size, segment.stop, segment, given)

    def select(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """Have these rows copied."""
        self._check_open()
        check_select(batch, rows, self.batch_sizes[-1])
        return self._kept("select", len(rows), batch.depth, batch.handle, tuple(rows))

    def merge(self, batches: Sequence[Batch]) -> Batch:
        """Have all rows copied."""
        self._check_open()
        check_merge(batches, self.batch_sizes[-1])
        size = sum(batch.size for batch in batches)
        return self._kept("merge", size, batches[0].depth, [batch.handle for batch in batches])

    def release(self, batch: Batch) -> None:
        """Give room for images back; features go when something is sent next."""
        slots, batch.slots = batch.slots, ()
        self._free.extend(slot for slot in slots if isinstance(slot, int))
        handle, batch.handle = batch.handle, None
        if handle is not None:
            self._engine.drop(handle)

    def detections(self, batch: Batch) -> list[Detections]:
        """Return the boxes, which have come with the answer."""
        self._check_open()
        return batch.detections

    def abort(self) -> None:
        """End the other process."""
        self._engine.abort()

    def close(self, _: Pause = no_pause, /) -> None:
        """End the other process, which is that of all its runners."""
        self._closed = True
        self._engine.close()

    def _kept(self, what: str, size: int, depth: int, *given: Any) -> Batch:
        """Have features made, which are kept in the other process."""
        handle = self._engine.new_handle()
        self._engine.call(what, self._model, *given, handle)
        return Batch(size, depth, True, handle=handle)

    def _placed(self, image: Image) -> Place:
        """Return where an image lies now, as a copy: in shared memory if there is room."""
        if not self._free:
            copied: Image = image.copy()
            return copied
        slot = self._free.pop()
        self._slots[slot] = image
        return slot

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the runner is closed")


def runners_of(
    engine: EngineProcess, facts: Sequence[Facts], memory: Any
) -> Iterator[ProcessRunner]:
    """Yield the runner of each model in the other process, whose images lie in ``memory``."""
    offset = 0
    for model, each in enumerate(facts):
        slots = slots_of(each, memory, offset)
        offset += each.num_bytes
        yield ProcessRunner(engine, model, each, slots)
