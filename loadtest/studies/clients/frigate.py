"""Many clients as Frigate's plugin for DeepStack is, at a multiple of what full depth can serve.

Each sends a frame of 320 x 320 pixels in a form, whose first field is an empty ``api_key``, and
gives up after a tenth of a second. Frames of all clients together come at random instants, and none
waits for another's answer: that is more at a time than real ones would send.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from loadtest.load.client import Address, Client, Failure, HttpReply, new_event_loop
from loadtest.servers.processes import StudyError, get_json
from loadtest.workload.images import AnnotatedImage
from serving.core.latency import quantile

PATH = "/v1/vision/detection"
TIMEOUT_S = 0.1
SIDE = 320
"""Pixels of a frame's sides."""
WARM_UP = 20
LEAD_S = 0.2
_BOUNDARY = "frigate"
_FIELD = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name="


@dataclass(frozen=True, slots=True)
class FrigateFigures:
    """What became of all frames of one run."""

    load: float
    """Frames a second, in multiples of what the most accurate operating point can serve."""
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


def full_depth(url: str) -> tuple[float, float]:
    """Return what the most accurate operating point can serve, per second, and its AP.

    By what the server says it takes, one image after the other. Raises StudyError.
    """
    best = get_json(f"{url}/v1/models")["front"][-1]
    return 1e3 / float(best["predicted_ms"]), float(best["ap"])


def run(
    url: str,
    images: Sequence[AnnotatedImage],
    load: float,
    capacity_hz: float,
    duration_s: float,
    seed: int,
) -> FrigateFigures:
    """Send frames at ``load`` times ``capacity_hz``. Raises StudyError."""
    address = Address.parse(url)
    requests = [_request(address, _frame(image)) for image in images]
    rng = np.random.default_rng(seed)
    count = max(1, round(load * capacity_hz * duration_s))
    instants_s = np.sort(rng.uniform(0.0, duration_s, count)).tolist()
    chosen = rng.integers(0, len(requests), count).tolist()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        replies = runner.run(_send(address, requests, list(zip(instants_s, chosen, strict=True))))
    return _figures(replies, load, load * capacity_hz)


def _frame(image: AnnotatedImage) -> bytes:
    with Image.open(io.BytesIO(image.data)) as photograph:
        frame = photograph.convert("RGB").resize((SIDE, SIDE))
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG")
    return buffer.getvalue()


def _request(address: Address, frame: bytes) -> bytes:
    body = b"".join(
        (
            f'{_FIELD}"api_key"\r\n\r\n\r\n'.encode(),
            f'{_FIELD}"image"; filename="image"\r\n\r\n'.encode(),
            frame,
            f"\r\n--{_BOUNDARY}--\r\n".encode(),
        )
    )
    head = (
        f"POST {address.prefix}{PATH} HTTP/1.1",
        f"Host: {address.authority}",
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}",
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


def _figures(replies: Sequence[HttpReply], load: float, rate_hz: float) -> FrigateFigures:
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
    )
