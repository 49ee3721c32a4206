"""The engine in a process of its own: how it is started, and what it does.

    python -m serving.models.engine_process CONNECTION MEMORY

It opens the runners that it is told to and runs segments on them as it is asked, both over the
socket CONNECTION. Images come in the file MEMORY. It ends with the socket, and with its parent.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from serving.core.errors import BackendError
from serving.core.ports import SegmentRunner
from serving.core.segment import Segment
from serving.models.opening import open_members
from serving.models.repository import read_family
from serving.models.runtime_options import RuntimeOptions
from serving.runners.family import FamilyRunner, Refit
from serving.runners.process import EngineProcess, Facts, Place, runners_of, slots_of
from serving.system.parent import end_with_parent

OPEN, MEMORY = "open", "memory"
"""The first two messages: what to open, and how large the memory is that both share."""

OPEN_WITHIN_S = 900.0
"""Seconds that the other process may take to open what it is told to, all of which may have to be
compiled, before it is taken to hang and ended."""


def open_family_in_process(
    folders: Sequence[Path], options: RuntimeOptions, refit: Refit
) -> SegmentRunner:
    """Return one runner over all sizes of the models in ``folders``, in a process of their own.

    ``refit`` brings images to the smaller sizes, in this one. Raises BackendError when they cannot
    be opened there, in time.
    """
    memory = os.memfd_create("punctual-images")
    mine, its = socket.socketpair()
    with its, mine:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(its.fileno()), str(memory)],
            pass_fds=(its.fileno(), memory),
            stdin=subprocess.DEVNULL,
        )
        engine = EngineProcess(process, Connection(mine.detach()))
    try:
        opened = (tuple(folders), replace(options, num_instances=1))
        facts: list[Facts] = engine.call(OPEN, *opened, within_s=OPEN_WITHIN_S)
        os.ftruncate(memory, _size(facts))
        engine.call(MEMORY, within_s=OPEN_WITHIN_S)
        runners = list(runners_of(engine, facts, mmap.mmap(memory, _size(facts))))
    except RuntimeError as error:
        engine.end(0.0)
        raise BackendError(str(error)) from error
    except BaseException:
        engine.end(0.0)
        raise
    finally:
        os.close(memory)
    if len(runners) == 1:
        return runners[0]
    return FamilyRunner(read_family(folders), runners, refit)


def open_in_processes(
    folders: Sequence[Path], options: RuntimeOptions, refit: Refit
) -> list[SegmentRunner]:
    """Return for each instance what ``open_family_in_process`` does, each in its own process.

    Raises BackendError.
    """
    opened: list[SegmentRunner] = []
    try:
        for _ in range(options.num_instances):
            opened.append(open_family_in_process(folders, options, refit))
    except BaseException:
        for runner in opened:
            runner.close()
        raise
    return opened


def _size(facts: list[Facts]) -> int:
    """Return the bytes of shared memory that the images of all runners take."""
    return sum(each.num_bytes for each in facts)


class _Engine:
    """What the process does: a method for each message."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._runners: list[SegmentRunner] = []
        self._facts: list[Facts] = []
        self._slots: list[Any] = []
        self._batches: dict[int, tuple[int, Any]] = {}
        """Model and batch, by handle."""

    def open(self, folders: Sequence[Path], options: RuntimeOptions) -> list[Facts]:
        """Open the runners, and say what they are."""
        members = open_members(folders, options, only_paying=True)
        self._runners = [runner for (runner,) in members]
        catalogs = read_family(folders).catalogs
        for catalog, runner in zip(catalogs, self._runners, strict=True):
            shape = (catalog.input_height, catalog.input_width, 3)
            self._facts.append(Facts(runner.runtime, runner.segments, runner.batch_sizes, shape))
        return self._facts

    def memory(self) -> None:
        """Map the memory that both share, which has its size now."""
        mapped, offset = mmap.mmap(self._memory, _size(self._facts)), 0
        for each in self._facts:
            self._slots.append(slots_of(each, mapped, offset))
            offset += each.num_bytes

    def drop(self, handle: int) -> None:
        """Let features go."""
        model, batch = self._batches.pop(handle)
        self._runners[model].release(batch)

    def boxes(self, model: int, segment: Segment, given: int | tuple[Place, ...]) -> Any:
        """Run a segment to its boxes, and return them."""
        runner = self._runners[model]
        output = self._run(model, segment, given)
        try:
            return runner.detections(output)
        finally:
            runner.release(output)

    def features(
        self, model: int, segment: Segment, given: int | tuple[Place, ...], handle: int
    ) -> None:
        """Run a segment to features, and keep them as ``handle``."""
        self._batches[handle] = (model, self._run(model, segment, given))

    def select(self, model: int, source: int, rows: tuple[int, ...], handle: int) -> None:
        """Keep these rows of features as ``handle``."""
        selected = self._runners[model].select(self._batches[source][1], rows)
        self._batches[handle] = (model, selected)

    def merge(self, model: int, sources: list[int], handle: int) -> None:
        """Keep all rows of these features as ``handle``."""
        merged = self._runners[model].merge([self._batches[source][1] for source in sources])
        self._batches[handle] = (model, merged)

    def _run(self, model: int, segment: Segment, given: int | tuple[Place, ...]) -> Any:
        """Run a segment on kept features or on images, and return what comes out."""
        runner = self._runners[model]
        if isinstance(given, int):
            return runner.run(segment, self._batches[given][1])
        slots = self._slots[model]
        loaded = runner.load([slots[at] if isinstance(at, int) else at for at in given])
        try:
            return runner.run(segment, loaded)
        finally:
            runner.release(loaded)


def _serve(connection: Connection, engine: _Engine) -> None:
    """Answer messages in order, until there is nobody to send any."""
    messages: dict[str, Callable[..., Any]] = {
        OPEN: engine.open,
        MEMORY: engine.memory,
        "boxes": engine.boxes,
        "features": engine.features,
        "select": engine.select,
        "merge": engine.merge,
    }
    while True:
        try:
            dropped, (name, *arguments) = connection.recv()
        except (EOFError, OSError):
            return
        failure = reply = None
        try:
            for handle in dropped:
                engine.drop(handle)
            reply = messages[name](*arguments)
        except Exception as error:  # it is for the other side to say what becomes of it
            failure = str(error) or repr(error)
        connection.send((failure, reply))


def main(connection: int, memory: int) -> None:
    """Be the engine of the process that started this one."""
    # Who tells a group of processes to end means the parent, which ends this one in its turn.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    _serve(Connection(connection), _Engine(memory))
    os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
