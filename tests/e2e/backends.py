"""The gateway over each of its backends, as processes, on one small model."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from builder.exporting.repository import write_entry, write_texts
from serving.core.catalog import Catalog
from tests.e2e.process import AMPLE, PATIENCE_S, Server
from tests.e2e.triton import Triton
from tests.exported import exported_detector
from tests.serving.fakes import encode

BACKENDS = ("embedded", "triton", "triton-depth")
MODEL = "bccd"
NUM_EXITS = 3
RUNTIME = "onnxruntime"
"""Float32 throughout, so that unit and fused segments find the same boxes in noise."""


def write_repository(folder: Path) -> Catalog:
    """A model repository with a small untrained model that finds boxes in noise."""
    exported = exported_detector(folder / f"{MODEL}_anytime" / "1")
    write_entry(exported.entry, exported.folder)
    write_texts(folder, exported.entry, RUNTIME)
    return exported.catalog


def noise() -> bytes:
    """A PNG of the model's input size, in which it finds something."""
    pixels = np.random.default_rng(1).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    return encode(pixels, "PNG")


def gateway(backend: str, repository: Path, triton: Triton | None, **options: object) -> Server:
    """The gateway in a process of its own. ``wait_ready=False`` does not wait for its engine."""
    return Server(
        "serving",
        "serve",
        wait_ready=bool(options.pop("wait_ready", True)),
        PUNCTUAL_MODEL_REPOSITORY=repository,
        PUNCTUAL_BACKEND=backend,
        PUNCTUAL_RUNTIME=RUNTIME,
        PUNCTUAL_NUM_THREADS=1,
        **AMPLE,
        **({"PUNCTUAL_TRITON_URL": triton.url} if triton is not None else {}),
        **options,
    )


@dataclass(frozen=True)
class Ended:
    """One request of a load, as its client saw it; times in seconds."""

    sent_s: float
    budget_s: float
    elapsed_s: float
    status: int
    slug: str
    depth: int
    slack_s: float
    """What was left of the budget by the server's clock, of an answer."""

    @property
    def ended_s(self) -> float:
        return self.sent_s + self.elapsed_s

    @property
    def overrun_s(self) -> float:
        """By how much the reply came after the budget."""
        return self.elapsed_s - self.budget_s


class Load:
    """Requests at a constant rate, whatever becomes of them, until told to end."""

    def __init__(
        self,
        url: str,
        rate: float,
        budgets_ms: tuple[float, ...],
        image: bytes | None = None,
        media_type: str = "image/png",
    ) -> None:
        self._url = url
        self._interval_s = 1 / rate
        self._budgets_ms = budgets_ms
        self._image = noise() if image is None else image
        self._media_type = media_type
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[Ended]] = []
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Load:
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(base_url=self._url, timeout=PATIENCE_S, limits=limits)
        self._running = asyncio.create_task(self._send_all())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        assert self._running is not None
        await self._running
        await self._client.aclose()

    async def until(self, reached: Callable[[list[Ended]], bool]) -> list[Ended]:
        """The requests that have ended, as soon as ``reached`` holds of them."""
        async with asyncio.timeout(PATIENCE_S):
            while not reached(ended := [task.result() for task in self._tasks if task.done()]):
                await asyncio.sleep(0.01)
        return ended

    async def ended(self) -> list[Ended]:
        """Send no more, and wait for all replies."""
        self._stop.set()
        assert self._running is not None
        await self._running
        return list(await asyncio.gather(*self._tasks))

    async def _send_all(self) -> None:
        next_s = time.monotonic()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
            if self._stop.is_set():
                return
            # What was missed while this process stood still is not sent all at once.
            next_s = max(next_s + self._interval_s, time.monotonic())
            budget_ms = self._budgets_ms[number % len(self._budgets_ms)]
            self._tasks.append(asyncio.create_task(self._send(budget_ms)))

    async def _send(self, budget_ms: float) -> Ended:
        headers = {"Content-Type": self._media_type, "X-Deadline-Ms": str(budget_ms)}
        sent_s = time.monotonic()
        reply = await self._client.post("/v1/detect", content=self._image, headers=headers)
        elapsed_s = time.monotonic() - sent_s
        body = reply.json()
        slug = str(body.get("type", "")).rpartition(":")[2]
        depth, slack_s = body.get("exit_depth", 0), body.get("slack_ms", 0.0) / 1e3
        return Ended(sent_s, budget_ms / 1e3, elapsed_s, reply.status_code, slug, depth, slack_s)


def counted(server: Server, url: str | None = None) -> Counter[str]:
    """Requests that the gateway says have ended, by outcome, at ``url`` if not at its own."""
    text = httpx.get(f"{url or server.url}/metrics", timeout=PATIENCE_S).text
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if line.startswith("punctual_requests_total{"):
            name, _, value = line.partition(" ")
            found[name.split('"')[1]] += round(float(value))
    return found
