"""Requests to a server under test: path, headers and bytes, and whether anything answers there.

All servers are asked and answer alike, so that the same load test drives Punctual and its peers: a
POST with an encoded image as its body and the budget in ``X-Deadline-Ms``, answered by JSON with
``detections``, each with ``box`` (x1, y1, x2, y2), ``score`` and ``class_id``; and, where the
server has them, ``exit_depth`` and ``expected_ap``.
"""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.load.client import Address, Client, HttpReply
from loadtest.servers.processes import NO_REPLY, POLL_S, REPLY_TIMEOUT_S, StudyError, get_json
from loadtest.workload.images import AnnotatedImage

DETECT_PATH = "/v1/detect"
WARM_UP_BUDGET_S = 10.0
WARM_UP_PATIENCE_S = 15.0
READY_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Target:
    """The facts in which the servers that a load test drives may differ."""

    name: str = "punctual"
    """Name by which reports call the server."""
    path: str = DETECT_PATH
    headers: tuple[tuple[str, str], ...] = ()
    """Headers that are sent beside those that every request has."""


class Requests:
    """The bytes of requests to one server, in which all but the budget is prepared."""

    def __init__(self, address: Address, target: Target, images: Sequence[AnnotatedImage]) -> None:
        common = (
            f"POST {address.prefix}{target.path} HTTP/1.1",
            f"Host: {address.authority}",
            "User-Agent: punctual-loadtest",
            "Accept: application/json",
            *(f"{name}: {value}" for name, value in target.headers),
        )
        self._parts = []
        for image in images:
            lines = (
                *common,
                f"Content-Type: {image.content_type}",
                f"Content-Length: {len(image.data)}",
                "X-Deadline-Ms: ",
            )
            self._parts.append(("\r\n".join(lines).encode(), image.data))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._parts)

    def request(self, image: int, budget_s: float) -> bytes:
        """Return head and body of the request with this image and budget."""
        head, body = self._parts[image]
        return head + b"%.3f\r\n\r\n" % (1e3 * budget_s) + body


async def warm_up(client: Client, requests: Requests, count: int) -> None:
    """Send ``count`` requests, at least one, each after the other, so that the server is warm.

    Connections, caches and clocks settle meanwhile. Raises StudyError if one has no reply.
    """
    loop = asyncio.get_running_loop()
    for number in range(max(1, count)):
        ended: asyncio.Future[HttpReply] = loop.create_future()
        data = requests.request(number % len(requests), WARM_UP_BUDGET_S)
        client.send(data, loop.time() + WARM_UP_PATIENCE_S, ended.set_result)
        reply = await ended
        if reply.failure is not None:
            raise StudyError(f"the server does not answer: {reply.reason}")


def wait_ready(url: str, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Wait until the server no longer says that it is starting, by 503 for GET /readyz.

    A server that has no such path, or is not there, is not waited for. Raises StudyError after
    ``timeout_s``, and InvalidArgument for what is no URL.
    """
    Address.parse(url)
    give_up_s = time.monotonic() + timeout_s
    while _is_starting(f"{url.rstrip('/')}/readyz"):
        if time.monotonic() > give_up_s:
            raise StudyError(f"{url} was not ready after {timeout_s:.0f} s")
        time.sleep(POLL_S)


def _is_starting(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=REPLY_TIMEOUT_S):
            return False
    except urllib.error.HTTPError as error:
        return error.code == 503
    except NO_REPLY:
        return False


def describe_server(url: str) -> dict[str, Any] | None:
    """Return what GET /v1/models says, as ``model_facts``; None where there is no such thing."""
    try:
        return model_facts(get_json(f"{url.rstrip('/')}/v1/models"))
    except (StudyError, ValueError, LookupError, TypeError, AttributeError):
        return None


def model_facts(listed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first model that a server lists, with the exits of all of them as its own.

    Input sizes of one model are listed one by one. The most accurate exit is the last, of equals
    the one that is listed last. Raises LookupError, TypeError or ValueError for anything else than
    a list of models.
    """
    models = listed["models"]
    facts = dict(models[0])
    if not isinstance(facts.get("classes", []), list):
        raise TypeError(f"{facts['classes']!r:.40} is no list of classes")
    if any("exits" in model for model in models):
        exits = [dict(each) for model in models for each in model["exits"]]
        facts["exits"] = sorted(exits, key=lambda each: float(each.get("ap") or 0.0))
    return facts
