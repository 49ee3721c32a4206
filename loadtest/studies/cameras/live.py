"""Cameras on a live gateway: a WebSocket each, or single requests without a stream.

Instants are those of the client's clock, from when a frame was due to be taken to when the whole
answer was there; a busy client makes its frames late, and they count as late.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from loadtest.load.client import Address, Client, HttpReply
from loadtest.load.closed_loop import run_closed_loop
from loadtest.load.target import Requests, Target
from loadtest.servers.processes import StudyError
from loadtest.studies.cameras.frames import End, Outcome, RunFigures, Shot, figures, shots
from loadtest.studies.cameras.simulation import FIFO, PATIENCE_S, STREAMS, Plan, System
from loadtest.studies.live.systems import System as Gateway
from loadtest.studies.live.systems import gateway_system
from loadtest.workload.images import AnnotatedImage
from serving.core.ladder import Ladder, PointId

LIVE = (STREAMS, FIFO)
"""What is compared live, in turns."""
CONCURRENCY = 8
"""Number of clients at once that show what the most accurate point can answer."""
CAPACITY_WINDOW_S = 3.0
LEAD_S = 0.5
"""Seconds from when all cameras are connected to the first frame."""
GRACE_S = 2.0
"""Seconds after the last deadline for which answers are waited for."""
TICK_S = 0.05

Say = Callable[[str], None]


def run_all(
    ladder: Ladder,
    best: PointId,
    settings: Mapping[str, object],
    images: Sequence[AnnotatedImage],
    plan: Plan,
    rounds: int,
    scratch: Path,
    say: Say,
) -> Iterator[RunFigures]:
    """Yield the figures of every run on gateways with ``settings``, the systems in turns.

    Raises StudyError.
    """
    with contextlib.ExitStack() as started:
        gateways: dict[System, Gateway] = {}
        for number, system in enumerate(LIVE):
            name = system.policy(ladder, best)
            say(f"starting a gateway: {system.name} ({name})")
            gateways[system] = started.enter_context(
                gateway_system(name, settings, images[0], scratch / f"{number}.log")
            )
        fifo = gateways[FIFO]
        with fifo.running():
            answers = run_closed_loop(
                fifo.server.url, images, CONCURRENCY, CAPACITY_WINDOW_S, Target()
            )
        say(f"the most accurate point answers {answers.rate_hz:.1f} frames a second")
        for number in range(rounds):
            for load in plan.loads:
                num_cameras = plan.num_cameras(load, answers.rate_hz)
                rng = np.random.default_rng((plan.seed, number, num_cameras))
                taken = shots(num_cameras, plan.rate_hz, plan.duration_s, rng)
                for system in LIVE if number % 2 == 0 else LIVE[::-1]:
                    with gateways[system].running():
                        outcomes = asyncio.run(
                            _run(gateways[system].server.url, system, taken, images, plan)
                        )
                    found = figures(system.name, load, outcomes, num_cameras, plan.duration_s)
                    say(f"load {load:g}, {num_cameras} cameras, {system.name}: done")
                    yield found


async def _run(
    url: str, system: System, taken: Sequence[Shot], images: Sequence[AnnotatedImage], plan: Plan
) -> list[Outcome]:
    """Send all frames, and return how each ended, in any order."""
    send = _over_streams if system.has_streams else _one_by_one
    outcomes = await send(url, taken, images, plan)
    if len(outcomes) != len(taken):
        raise StudyError(f"{len(taken) - len(outcomes)} of {len(taken)} frames have no end")
    return outcomes


def _outcome(shot: Shot, ended_s: float, told: Mapping[str, Any], plan: Plan) -> Outcome:
    """Return how a frame ended that was told of at ``ended_s``, after the start of the run."""
    outcome = str(told["outcome"])
    if outcome == "answered":
        late = ended_s > shot.taken_s + plan.budget_s
        end = End.LATE if late else End.IN_TIME
        return Outcome(shot, end, ended_s, str(told["operating_point"]), float(told["expected_ap"]))
    if outcome == "overloaded":
        begun = str(told["reason"]).startswith("evicted")
        return Outcome(shot, End.LATE if begun else End.REFUSED, ended_s)
    return Outcome(shot, _ENDS.get(outcome, End.FAILED), ended_s)


_ENDS = {
    "superseded": End.SUPERSEDED,
    "deadline-exceeded": End.LATE,
    "too-many-requests": End.REFUSED,
}


# -- a WebSocket for each camera -----------------------------------------------------------------


async def _over_streams(
    url: str, taken: Sequence[Shot], images: Sequence[AnnotatedImage], plan: Plan
) -> list[Outcome]:
    address = Address.parse(url)
    of_camera: dict[int, list[Shot]] = {}
    for shot in taken:
        of_camera.setdefault(shot.camera, []).append(shot)
    path = f"ws://{address.authority}/v1/streams/camera-"
    query = f"?deadline_ms={plan.budget_s * 1e3:g}"
    async with contextlib.AsyncExitStack() as opened:
        try:
            connections = {
                camera: await opened.enter_async_context(
                    connect(f"{path}{camera}{query}", compression=None, proxy=None)
                )
                for camera in of_camera
            }
        except (OSError, WebSocketException) as error:
            raise StudyError(f"a camera cannot connect: {error}") from error
        start_s = asyncio.get_running_loop().time() + LEAD_S
        found = await asyncio.gather(
            *(
                _camera(connections[camera], shots, images, plan, start_s)
                for camera, shots in of_camera.items()
            )
        )
    return [outcome for outcomes in found for outcome in outcomes]


async def _camera(
    connection: ClientConnection,
    taken: Sequence[Shot],
    images: Sequence[AnnotatedImage],
    plan: Plan,
    start_s: float,
) -> list[Outcome]:
    loop = asyncio.get_running_loop()

    async def send() -> None:
        for number, shot in enumerate(taken):
            await asyncio.sleep(start_s + shot.taken_s - loop.time())
            await connection.send(images[(shot.camera + number) % len(images)].data)

    sending = asyncio.create_task(send())
    outcomes: list[Outcome] = []
    try:
        give_up_s = start_s + taken[-1].taken_s + plan.budget_s + GRACE_S
        async with asyncio.timeout(give_up_s - loop.time()):
            for _ in taken:
                text = await connection.recv()
                ended_s = loop.time() - start_s
                told = json.loads(text)
                outcomes.append(_outcome(taken[told["frame"] - 1], ended_s, told, plan))
            await sending
    except (TimeoutError, WebSocketException):
        pass  # what has no end is counted by whoever called
    finally:
        sending.cancel()
    return outcomes


# -- a request for each frame --------------------------------------------------------------------


async def _one_by_one(
    url: str, taken: Sequence[Shot], images: Sequence[AnnotatedImage], plan: Plan
) -> list[Outcome]:
    loop = asyncio.get_running_loop()
    address = Address.parse(url)
    client, requests = Client(address, loop), Requests(address, Target(), images)
    await client.resolve()
    replies: list[tuple[Shot, HttpReply]] = []
    start_s = loop.time() + LEAD_S

    def send(number: int, shot: Shot) -> None:
        request = requests.request(number % len(images), PATIENCE_S)
        give_up_s = loop.time() + PATIENCE_S + GRACE_S
        client.send(request, give_up_s, lambda reply: replies.append((shot, reply)))

    for number, shot in enumerate(taken):
        loop.call_at(start_s + shot.taken_s, send, number, shot)
    try:
        async with asyncio.timeout(LEAD_S + taken[-1].taken_s + PATIENCE_S + 2 * GRACE_S):
            while len(replies) < len(taken):
                await asyncio.sleep(TICK_S)
    except TimeoutError:
        pass  # as above
    finally:
        await client.close()
    return [
        _outcome(shot, reply.finished_s - start_s, _told(reply), plan) for shot, reply in replies
    ]


def _told(reply: HttpReply) -> dict[str, Any]:
    """Return a reply as a stream would have told it."""
    if reply.failure is not None:
        return {"outcome": reply.failure}
    told: dict[str, Any] = json.loads(reply.body)
    return {"outcome": str(told.get("type", "answered")).rpartition(":")[2], **told}
