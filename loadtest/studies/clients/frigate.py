"""Many clients as Frigate's plugin for DeepStack is, at multiples of what full depth can serve.

Each sends a frame of 320 x 320 pixels in a form, whose first field is an empty ``api_key``, and
gives up after a tenth of a second. Frames of all clients together come at random instants, and none
waits for another's answer: that is more at a time than real ones would send.

What full depth can serve is measured: the frames that a server answers at most at its most accurate
operating point, if clients send the next one as soon as they have an answer. The engine alone could
do more, since frames are sent, received, decoded and answered on the same machine.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loadtest.load.client import Address, Client, Failure, HttpReply, new_event_loop
from loadtest.load.closed_loop import run_closed_loop
from loadtest.load.target import Target
from loadtest.policies.named import FIXED
from loadtest.servers.processes import StudyError, gateway_server, get_json, get_text
from loadtest.studies.variants.study import processor_seconds
from loadtest.workload.images import AnnotatedImage
from serving.core.quantiles import quantile

PATH = "/v1/vision/detection"
TIMEOUT_S = 0.1
SIDE = 320
"""Pixels of a frame's sides."""
WARM_UP = 20
LEAD_S = 0.2

PROCESSOR = GATEWAY, ENGINES, CLIENT = "gateway", "engine", "client"
"""Whose processor time is measured: the gateway's own, its engine's, and the clients'."""
SERVER, ENGINE = "server", "engine alone"
"""What loads are multiples of."""
CONCURRENCY = 8
"""Number of clients at once that show what a server answers at most."""
WINDOWS, WINDOW_S = 3, 3.0
_BOUNDARY = "frigate"
_TYPE = f"multipart/form-data; boundary={_BOUNDARY}"
_FIELD = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name="


@dataclass(frozen=True, slots=True)
class FrigateFigures:
    """What became of all frames of one run."""

    load: float
    """Frames a second, in multiples of what the most accurate operating point can serve."""
    of: str
    """Of what it is a multiple: ``SERVER`` or ``ENGINE``."""
    rate_hz: float
    num_frames: int
    in_time: float
    """Share that had predictions within the client's patience, be it that there is nothing."""
    timed_out: int
    refused: dict[str, int]
    """Replies that say that there is no answer, by status."""
    malformed: int
    """Replies that neither have predictions and say how they came about, nor say what is wrong."""
    latency_ms: tuple[float, float]
    """Median and 99th percentile of those in time, in milliseconds."""
    points: dict[str, int]
    expected_ap: float
    """Mean of the AP that those in time were said to have."""
    ms_each: Mapping[str, float]
    """Milliseconds of processor time for each frame, by whose they are: ``PROCESSOR``."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the most accurate operating point can serve."""

    point: str
    ap: float
    server_hz: float
    """Frames a second that a server answers at most which knows no other point."""
    engine_hz: float
    """Images a second by what the engine is predicted to take for one after the other."""

    def hz(self, of: str) -> float:
        """Return the frames a second of ``SERVER`` or ``ENGINE``."""
        return {SERVER: self.server_hz, ENGINE: self.engine_hz}[of]


def measure_capacity(
    point: str, settings: Mapping[str, object], images: Sequence[AnnotatedImage], log: Path
) -> Capacity:
    """Return what a gateway with these settings can serve at ``point`` alone. Raises StudyError."""
    command = ("study", "serve", "--policy", f"{FIXED}:{point}")
    with gateway_server(point, settings, log, command) as server:
        best = get_json(f"{server.url}/v1/models")["front"][-1]
        forms = [replace(image, data=_form(_frame(image)), content_type=_TYPE) for image in images]
        rates_hz = [
            run_closed_loop(server.url, forms, CONCURRENCY, WINDOW_S, Target(path=PATH)).rate_hz
            for _ in range(WINDOWS)
        ]
    engine_hz = 1e3 / float(best["predicted_ms"])
    return Capacity(point, float(best["ap"]), quantile(rates_hz, 0.5), engine_hz)


def run(
    url: str,
    images: Sequence[AnnotatedImage],
    load: float,
    of: str,
    capacity: Capacity,
    duration_s: float,
    seed: int,
) -> FrigateFigures:
    """Send frames at ``load`` times what ``of`` can serve. Raises StudyError."""
    address = Address.parse(url)
    requests = [_request(address, _frame(image)) for image in images]
    rng = np.random.default_rng(seed)
    rate_hz = load * capacity.hz(of)
    count = max(1, round(rate_hz * duration_s))
    instants_s = np.sort(rng.uniform(0.0, duration_s, count)).tolist()
    chosen = rng.integers(0, len(requests), count).tolist()
    before, client_s = processor_seconds(get_text(f"{url}/metrics")), time.process_time()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        replies = runner.run(_send(address, requests, list(zip(instants_s, chosen, strict=True))))
    client_s = time.process_time() - client_s
    after = processor_seconds(get_text(f"{url}/metrics"))
    spent_s = {part: seconds - before[part] for part, seconds in after.items()}
    engine_s = spent_s.pop(ENGINES)
    seconds = (sum(spent_s.values()), engine_s, client_s)
    each = {whose: 1e3 * s / (count + WARM_UP) for whose, s in zip(PROCESSOR, seconds, strict=True)}
    return _figures(replies, load, of, rate_hz, each)


def _frame(image: AnnotatedImage) -> bytes:
    with Image.open(io.BytesIO(image.data)) as photograph:
        frame = photograph.convert("RGB").resize((SIDE, SIDE))
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG")
    return buffer.getvalue()


def _form(frame: bytes) -> bytes:
    return b"".join(
        (
            f'{_FIELD}"api_key"\r\n\r\n\r\n'.encode(),
            f'{_FIELD}"image"; filename="image"\r\n\r\n'.encode(),
            frame,
            f"\r\n--{_BOUNDARY}--\r\n".encode(),
        )
    )


def _request(address: Address, frame: bytes) -> bytes:
    body = _form(frame)
    head = (
        f"POST {address.prefix}{PATH} HTTP/1.1",
        f"Host: {address.authority}",
        f"Content-Type: {_TYPE}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def _send(
    address: Address, requests: Sequence[bytes], frames: Sequence[tuple[float, int]]
) -> list[HttpReply]:
    loop = asyncio.get_running_loop()
    client = Client(address, loop)
    await client.resolve()
    for number in range(WARM_UP):
        warm: asyncio.Future[HttpReply] = loop.create_future()
        client.send(requests[number % len(requests)], loop.time() + 10.0, warm.set_result)
        if (await warm).failure is not None:
            raise StudyError(f"{address.authority} does not answer")
    replies: list[HttpReply] = []
    start_s = loop.time() + LEAD_S
    for instant_s, number in frames:
        await asyncio.sleep(start_s + instant_s - loop.time())
        client.send(requests[number], loop.time() + TIMEOUT_S, replies.append)
    while len(replies) < len(frames):
        await asyncio.sleep(TIMEOUT_S)
    await client.close()
    return replies


def _figures(
    replies: Sequence[HttpReply],
    load: float,
    of: str,
    rate_hz: float,
    ms_each: Mapping[str, float],
) -> FrigateFigures:
    refused: Counter[str] = Counter()
    points: Counter[str] = Counter()
    latencies_s, aps = [], []
    timed_out = malformed = 0
    for reply in replies:
        if reply.failure is Failure.TIMEOUT:
            timed_out += 1
            continue
        if reply.failure is not None:
            refused[str(reply.failure)] += 1
            continue
        body: dict[str, Any] = json.loads(reply.body)
        if reply.status != 200:
            refused[str(reply.status)] += 1
            malformed += bool(body.get("success")) or "predictions" in body
            continue
        malformed += body.get("success") is not True or "predictions" not in body
        points[str(body["operating_point"])] += 1
        aps.append(float(body["expected_ap"]))
        latencies_s.append(reply.finished_s - reply.sent_s)
    count = len(replies)
    return FrigateFigures(
        load,
        of,
        rate_hz,
        count,
        len(latencies_s) / count,
        timed_out,
        dict(refused),
        malformed,
        (1e3 * quantile(latencies_s, 0.5), 1e3 * quantile(latencies_s, 0.99))
        if latencies_s
        else (float("nan"), float("nan")),
        dict(points.most_common()),
        float(np.mean(aps)) if aps else 0.0,
        ms_each,
    )
