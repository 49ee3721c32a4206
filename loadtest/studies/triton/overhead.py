"""The overhead of Triton: the same image to gateways that differ in their backend only.

    turn:   embedded   triton   triton, no shared memory   triton-depth       in a new order
              '-- one after the other, each held to the same depth, then all to the next depth

Overhead is the client's elapsed time without the engine's. The engine's time is what the reply's
Server-Timing calls ``engine``: the segments, by the clock of the executor that ran them. To
``triton-depth`` a segment is a call of Triton, so that its ``engine`` holds the way there and back
as well; for it, the engine's time is what Triton's statistics of that model call ``compute_infer``,
which still holds the hop into the model's process, some tenths of a millisecond.

What Triton adds is the difference to ``embedded`` within a turn.
"""

from __future__ import annotations

import http.client
import json
import mimetypes
import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from loadtest.environment.spread import Spread
from loadtest.servers import processes
from loadtest.servers.processes import StudyError
from serving.core.command_errors import InvalidArgument
from serving.core.quantiles import quantile

BASELINE = "embedded"
DEPTH = "triton-depth"
BACKENDS: Mapping[str, Mapping[str, object]] = {
    BASELINE: {"backend": "embedded"},
    "triton": {"backend": "triton", "triton_shared_memory": True},
    "triton, no shared memory": {"backend": "triton", "triton_shared_memory": False},
    DEPTH: {"backend": "triton-depth", "triton_shared_memory": True},
}
"""Name of a gateway -> the settings in which it differs from the others."""
TARGET_MS = 2.0
"""Milliseconds that Triton may add to the median request."""
BUDGET_MS = 9000
WARM_UP_TURNS = 10
MAX_LOST_SHARE = 0.1
"""Share of the turns that may be lost to refusals."""
REQUEST_TIMEOUT_S = 30.0
STATISTICS_TRIES = 20
STATISTICS_RETRY_S = 0.005

_ENGINE = re.compile(r"\bengine;dur=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class OverheadSample:
    """The times of one answer, in milliseconds."""

    elapsed_ms: float
    engine_ms: float

    @property
    def overhead_ms(self) -> float:
        """Return the milliseconds that were not the engine's."""
        return self.elapsed_ms - self.engine_ms


class Refused(Exception):
    """An error of a gateway that did not answer as asked; the message says how it did."""


class ImageClient(Protocol):
    """A client that sends one image to one gateway."""

    def __call__(self, depth: int) -> OverheadSample:
        """Return the times of an answer from exit ``depth``. Raises Refused."""


@dataclass(frozen=True, slots=True)
class OverheadFigures:
    """The times of one gateway at one depth over all turns, in milliseconds."""

    gateway: str
    depth: int
    num_turns: int
    elapsed_p50_ms: float
    engine_p50_ms: float
    overhead_p50_ms: float
    overhead_p90_ms: float
    overhead_p99_ms: float
    added_ms: Spread
    """Spread of the overhead less that of ``embedded`` in the same turn."""


@dataclass(frozen=True, slots=True)
class Turns:
    """The results of all turns."""

    samples: Mapping[int, Sequence[Mapping[str, OverheadSample]]]
    """Depth -> each turn in which all gateways answered, by gateway."""
    lost: Mapping[str, int]
    """Answer of a gateway that did not do as asked -> number of turns left out."""


def measure(
    gateways: Mapping[str, ImageClient],
    depths: Sequence[int],
    num_turns: int,
    seed: int,
) -> Turns:
    """Measure ``num_turns`` turns at each depth, after some that do not count.

    A turn in which a gateway does not answer is left out whole. Raises StudyError when too many
    are.
    """
    order = random.Random(seed)
    samples: dict[int, list[Mapping[str, OverheadSample]]] = {depth: [] for depth in depths}
    lost: Counter[str] = Counter()
    for turn in range(-WARM_UP_TURNS, num_turns):
        for depth in depths:
            names = list(gateways)
            order.shuffle(names)
            try:
                found = {name: gateways[name](depth) for name in names}
            except Refused as refused:
                if turn >= 0:
                    lost[str(refused)] += 1
                continue
            if turn >= 0:
                samples[depth].append({name: found[name] for name in gateways})
        if lost.total() > MAX_LOST_SHARE * num_turns * len(depths):
            reasons = "; ".join(f"{reason} ({count})" for reason, count in lost.most_common(3))
            raise StudyError(f"too many requests were not answered as asked: {reasons}")
    return Turns(samples, dict(lost))


def summarise(turns: Turns) -> list[OverheadFigures]:
    """Compute the figures of each depth and gateway, ``embedded`` being one."""
    return [
        _figures(name, depth, rows) for depth, rows in turns.samples.items() for name in rows[0]
    ]


def _figures(
    name: str, depth: int, rows: Sequence[Mapping[str, OverheadSample]]
) -> OverheadFigures:
    mine = [row[name] for row in rows]
    overheads = [sample.overhead_ms for sample in mine]
    return OverheadFigures(
        gateway=name,
        depth=depth,
        num_turns=len(rows),
        elapsed_p50_ms=quantile((sample.elapsed_ms for sample in mine), 0.5),
        engine_p50_ms=quantile((sample.engine_ms for sample in mine), 0.5),
        overhead_p50_ms=quantile(overheads, 0.5),
        overhead_p90_ms=quantile(overheads, 0.9),
        overhead_p99_ms=quantile(overheads, 0.99),
        added_ms=Spread.of(row[name].overhead_ms - row[BASELINE].overhead_ms for row in rows),
    )


# -- the gateways --------------------------------------------------------------------------------


class Gateway:
    """A client over one keep-alive connection to the gateway at ``url``."""

    def __init__(self, name: str, url: str, image: bytes, media_type: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._name = name
        self._connection = http.client.HTTPConnection(
            parts.hostname, parts.port, timeout=REQUEST_TIMEOUT_S
        )
        self._image = image
        self._headers = {"Content-Type": media_type, "X-Deadline-Ms": str(BUDGET_MS)}

    def __call__(self, depth: int) -> OverheadSample:
        """Return the times of an answer from exit ``depth``. Raises Refused."""
        path = f"/v1/detect?min_depth={depth}&max_depth={depth}"
        started_s = time.perf_counter()
        try:
            self._connection.request("POST", path, self._image, self._headers)
            reply = self._connection.getresponse()
            body = reply.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # the next request opens it again
            raise Refused(f"{self._name}: {error!r}") from error
        elapsed_ms = 1e3 * (time.perf_counter() - started_s)
        if reply.status != http.HTTPStatus.OK:
            raise Refused(f"{self._name}: {reply.status} {_slug(body)}")
        engine = _ENGINE.search(reply.headers.get("Server-Timing", ""))
        if engine is None:
            raise Refused(f"{self._name}: a reply without the engine's time in Server-Timing")
        return OverheadSample(elapsed_ms, float(engine[1]))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _slug(problem: bytes) -> str:
    """Return what a problem document is called; the same for all of its kind, unlike its text."""
    try:
        return str(json.loads(problem)["type"]).rpartition(":")[2]
    except (ValueError, KeyError, TypeError):
        return "without a problem document"


class DepthGateway:
    """A client of ``gateway``, which takes the engine's time from Triton's own clock.

    The gateway's engine is the models ``<model>_dK`` in the Triton at ``triton_url``.
    """

    def __init__(self, gateway: ImageClient, triton_url: str, model: str) -> None:
        self._gateway = gateway
        self._triton_url = triton_url
        self._model = model

    def __call__(self, depth: int) -> OverheadSample:
        """Return the times of an answer from exit ``depth``. Raises Refused, StudyError."""
        count, spent_ns = self._computed(depth)
        sample = self._gateway(depth)
        for _ in range(STATISTICS_TRIES):
            now, now_ns = self._computed(depth)
            if now == count + 1:
                return OverheadSample(sample.elapsed_ms, (now_ns - spent_ns) / 1e6)
            if now > count:  # the gateway's executor tried the engine meanwhile
                break
            time.sleep(STATISTICS_RETRY_S)  # Triton counts after it has answered
        raise Refused(f"{DEPTH}: Triton counted {now - count} runs instead of one")

    def _computed(self, depth: int) -> tuple[int, int]:
        """Return the model's runs so far, and the nanoseconds in them."""
        url = f"{self._triton_url}/v2/models/{self._model}_d{depth}/stats"
        (statistics,) = processes.get_json(url)["model_stats"]
        infer: Mapping[str, Any] = statistics["inference_stats"]["compute_infer"]
        return int(infer.get("count", 0)), int(infer.get("ns", 0))


def read_image(path: Path) -> tuple[bytes, str]:
    """Read an image file; return its bytes and its media type. Raises InvalidArgument."""
    media_type, _ = mimetypes.guess_type(path.name)
    if media_type is None or not media_type.startswith("image/"):
        raise InvalidArgument(f"{path} has no suffix of an image file")
    try:
        return path.read_bytes(), media_type
    except OSError as error:
        raise InvalidArgument(f"the image cannot be read: {error}") from error
