"""An open-loop load test: requests sent on a schedule that a seed fixes, and how each one ended.

    seed -> schedule: when, which image, what budget -> client -> one outcome per request

In an open loop a request is sent when it is due, whatever became of those before it. Its latency
counts from that moment on, so that neither a busy client nor a busy server hides a wait; what the
client's own delay adds is in every outcome. Replies are read after the last one has come, since
reading JSON meanwhile would delay the sending.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import hashlib
import math
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.load.client import MAX_CONNECTIONS, Address, Client, HttpReply, new_event_loop
from loadtest.load.outcomes import RequestOutcome, read_outcome
from loadtest.load.target import Requests, Target, describe_server, warm_up
from loadtest.servers.processes import StudyError
from loadtest.workload.arrivals import Arrivals
from loadtest.workload.budgets import Budgets
from loadtest.workload.images import AnnotatedImage
from serving.core.command_errors import InvalidArgument

MAX_REQUESTS = 200_000
"""Largest number of requests in one run: their replies are held in memory."""
START_DELAY_S = 0.05
SPARE_FILES = 64


# -- what to send --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """The settings of one run. Durations are in seconds."""

    url: str
    images: tuple[AnnotatedImage, ...]
    arrivals: Arrivals
    rate_hz: float
    duration_s: float
    budgets: Budgets
    full_depth_s: float
    """Seconds of full depth, of which budgets may be multiples."""
    seed: int = 0
    target: Target = field(default_factory=Target)
    classes: tuple[str, ...] = ()
    """Names of the model's classes, in the order of ``class_id``; needed for served AP."""
    ap_by_depth: Mapping[int, float] = field(default_factory=dict)
    """Exit depth -> ``expected_ap``, for replies that do not state it."""
    grace_s: float = 2.0
    """Seconds after its budget for which an answer is waited for."""
    warm_up: int = 10
    """Number of requests before the run, one at a time, that count for nothing."""
    max_connections: int = MAX_CONNECTIONS


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """The requests of a run, [N] each: when it is due, what it allows, and which image it sends."""

    offsets_s: NDArray[np.float64]
    budgets_s: NDArray[np.float64]
    images: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets_s)

    def __iter__(self) -> Iterator[tuple[float, float, int]]:
        """Yield offset, budget and image of one request after the other."""
        columns = (self.offsets_s.tolist(), self.budgets_s.tolist(), self.images.tolist())
        return zip(*columns, strict=True)

    @property
    def digest(self) -> str:
        """Return 16 hexadecimal digits of SHA-256 that tell one schedule from another.

        They are the same for the same requests at the same times.
        """
        parts = (self.offsets_s, self.budgets_s, self.images)
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]


def make_schedule(settings: LoadSettings) -> Schedule:
    """Return the schedule that the settings and their seed determine.

    Every image is sent equally often, in a new order each time around. Raises ValueError for no
    requests or more than MAX_REQUESTS.
    """
    # Streams of their own, so that other budgets do not mean other arrivals.
    arrivals, budgets, order = (
        np.random.default_rng(stream) for stream in np.random.SeedSequence(settings.seed).spawn(3)
    )
    offsets_s = settings.arrivals.offsets_s(settings.rate_hz, settings.duration_s, arrivals)
    count = len(offsets_s)
    if not settings.images:
        raise InvalidArgument("a run needs at least one picture")
    if not 0 < count <= MAX_REQUESTS:
        raise InvalidArgument(f"a run sends 1 to {MAX_REQUESTS:,} requests, not {count:,}")
    budgets_s = settings.budgets.sample_s(count, settings.full_depth_s, budgets)
    rounds = range(math.ceil(count / len(settings.images)))
    images = np.concatenate([order.permutation(len(settings.images)) for _ in rounds])
    return Schedule(offsets_s, budgets_s, images[:count])


# -- what came of it -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class LoadResult:
    """A run that has ended: its settings, its outcomes and what the client took."""

    settings: LoadSettings
    schedule: Schedule
    outcomes: tuple[RequestOutcome, ...]
    """How each request ended, in the order of the schedule."""
    started: str
    """Instant of the run's start, ISO 8601, in UTC."""
    wall_s: float
    cpu_s: float
    """Seconds of processor time that the client took while it sent and received."""
    is_real_time: bool
    """Whether the client ran as soon as it was due; see ``real_time``."""
    peak_connections: int
    server: Mapping[str, Any] | None
    """The server's model in /v1/models; None if the server has no such path."""


# -- running -------------------------------------------------------------------------------------


def run_load(settings: LoadSettings) -> LoadResult:
    """Send all requests of a run and wait for all replies.

    Raises StudyError if nothing answers at the URL, and ValueError for settings that make no sense.
    """
    schedule = make_schedule(settings)
    address = Address.parse(settings.url)
    server = describe_server(settings.url)
    with asyncio.Runner(loop_factory=new_event_loop) as runner, _no_collections():
        run = runner.run(_run(settings, schedule, address))
    outcomes = [
        read_outcome(reply, run.start_s, offset_s, budget_s, image, settings.ap_by_depth)
        for reply, (offset_s, budget_s, image) in zip(run.replies, schedule, strict=True)
    ]
    return LoadResult(
        settings=settings,
        schedule=schedule,
        outcomes=tuple(outcomes),
        started=run.started,
        wall_s=run.wall_s,
        cpu_s=run.cpu_s,
        is_real_time=run.is_real_time,
        peak_connections=run.peak_connections,
        server=server,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """The facts about a run at its end, before replies are read.

    Instants are in seconds by the event loop's clock.
    """

    start_s: float
    replies: Sequence[HttpReply]
    started: str
    wall_s: float
    cpu_s: float
    is_real_time: bool
    peak_connections: int


async def _run(settings: LoadSettings, schedule: Schedule, address: Address) -> _Run:
    loop = asyncio.get_running_loop()
    client = Client(address, loop, allow_files(settings.max_connections))
    requests = Requests(address, settings.target, settings.images)
    try:
        await client.resolve()
        await warm_up(client, requests, settings.warm_up)
        with real_time() as is_real_time:
            started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            cpu_s, wall_s = time.process_time(), loop.time()
            start_s, replies = await _send_all(client, requests, schedule, settings.grace_s)
            cpu_s, wall_s = time.process_time() - cpu_s, loop.time() - wall_s
    except OSError as error:
        raise StudyError(f"{settings.url} cannot be reached: {error}") from error
    finally:
        await client.close()
    return _Run(start_s, replies, started, wall_s, cpu_s, is_real_time, client.peak_connections)


async def _send_all(
    client: Client, requests: Requests, schedule: Schedule, grace_s: float
) -> tuple[float, Sequence[HttpReply]]:
    """Send every request when it is due; return the run's start and what became of each request.

    Offsets count from that start, an instant of the event loop's clock.
    """
    loop = asyncio.get_running_loop()
    ended: dict[int, HttpReply] = {}
    all_ended = asyncio.Event()

    def end(number: int, reply: HttpReply) -> None:
        ended[number] = reply
        if len(ended) == len(schedule):
            all_ended.set()

    start_s = loop.time() + START_DELAY_S
    for number, (offset_s, budget_s, image) in enumerate(schedule):
        due_s = start_s + offset_s
        data = requests.request(image, budget_s)
        # Yield even when late: replies have to be handled between two requests.
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        client.send(data, due_s + budget_s + grace_s, functools.partial(end, number))
    await all_ended.wait()
    return start_s, [ended[number] for number in range(len(schedule))]


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Keep the garbage collector off what is there already, within the context.

    A pass over all imported modules takes as long as some budgets.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def real_time() -> Iterator[bool]:
    """Let this thread run as soon as it is due, within the context, if that is permitted.

    Yields whether it is. The system permits it to root, and to processes with CAP_SYS_NICE. A
    server that computes on the same cores would otherwise keep the thread waiting for tens of
    milliseconds.
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, *before)


def allow_files(num_connections: int) -> int:
    """Let the process open a file for each connection, as far as the system permits.

    Returns how many connections it may have.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return min(num_connections, soft - SPARE_FILES)
    return num_connections
