"""A closed loop of clients, each of which waits for its answer before it sends the next request.

What a server can do at most, and what it takes for a request when it has no other, are facts about
the server that an open loop needs before it can send a share of the one within a multiple of the
other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.load.client import Address, Client, HttpReply, new_event_loop
from loadtest.load.open_loop import real_time
from loadtest.load.target import Requests, Target, warm_up
from loadtest.servers.processes import StudyError
from loadtest.workload.images import AnnotatedImage
from serving.core.quantiles import quantile

BUDGET_S = 10.0
"""Seconds of budget of every request: so long that no server refuses anything."""
PATIENCE_S = 15.0
WARM_UP = 10


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers that all clients of a closed loop were given together."""

    latencies_s: tuple[float, ...]
    """Seconds from sending a request to the last byte of its answer, one for each answer."""
    seconds: float
    """Seconds from the first request that was sent to the last answer that came."""

    @property
    def rate_hz(self) -> float:
        """Return the number of answers per second."""
        return len(self.latencies_s) / self.seconds

    @property
    def p50_s(self) -> float:
        """Return the median latency in seconds."""
        return quantile(self.latencies_s, 0.5)


def run_closed_loop(
    url: str, images: Sequence[AnnotatedImage], concurrency: int, duration_s: float, target: Target
) -> Answers:
    """Send requests in a closed loop of ``concurrency`` clients, each with one request at a time.

    Each sends at least one, and none is sent after ``duration_s``. Raises StudyError if a request
    is not answered with 200.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_run(Address.parse(url), images, concurrency, duration_s, target))


async def _run(
    address: Address,
    images: Sequence[AnnotatedImage],
    concurrency: int,
    duration_s: float,
    target: Target,
) -> Answers:
    loop = asyncio.get_running_loop()
    client = Client(address, loop)
    requests = Requests(address, target, images)
    replies: list[HttpReply] = []

    async def call(number: int, until_s: float) -> None:
        while True:
            ended: asyncio.Future[HttpReply] = loop.create_future()
            data = requests.request(number % len(requests), BUDGET_S)

            def end(reply: HttpReply, ended: asyncio.Future[HttpReply] = ended) -> None:
                if not ended.done():  # cancelled, since another client was refused
                    ended.set_result(reply)

            client.send(data, loop.time() + PATIENCE_S, end)
            reply = await ended
            if reply.status != 200:
                raise StudyError(f"the server does not answer: {reply.reason or reply.status}")
            replies.append(reply)
            if reply.finished_s >= until_s:
                return
            number += 1

    try:
        await client.resolve()
        await warm_up(client, requests, WARM_UP)
        with real_time():
            started_s = loop.time()
            async with asyncio.TaskGroup() as group:
                for number in range(concurrency):
                    group.create_task(call(number, started_s + duration_s))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        await client.close()
    latencies_s = tuple(reply.finished_s - reply.sent_s for reply in replies)
    return Answers(latencies_s, max(reply.finished_s for reply in replies) - started_s)
