"""The page on how a request travels names the modules that one meets."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

import serving
from serving.api.lifecycle import Lifecycle
from serving.backends.model_changes import ChangeableBackend
from serving.composition.application import create_app
from serving.observability.metrics import Metrics
from serving.settings import Settings
from tests.serving.fakes import JPEG
from tests.serving.gated import GatedRunner, gated_backend

SOURCE = Path(serving.__file__).parent
PAGE = SOURCE.parent / "docs/concepts/request-path.md"
ELSEWHERE = {"serving/http_protocol.py", "serving/runners/openvino/runner.py"}
"""What only a socket, or a real model, makes a request meet."""


async def _ignore(_: float | Exception) -> None:
    pass


async def detect() -> httpx.Response:
    """Serve one request by a real executor over a runner that lets it pass."""
    metrics = Metrics(CollectorRegistry(), asyncio.get_running_loop().time)
    runner = GatedRunner()
    runner.let(100)
    backend = ChangeableBackend(
        gated_backend(runner, metrics),
        find=lambda: pytest.fail("nobody changes the model"),
        trial_image=lambda _: pytest.fail("nobody changes the model"),
        clock=asyncio.get_running_loop().time,
        observer=metrics.versions,
        drain_s=1.0,
    )
    metrics.describe(backend, version="0", runtime="fake")
    await backend.start()
    try:
        app = create_app(Settings(), backend, metrics, Lifecycle(backend), started=_ignore)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://gateway"
        ) as client:
            headers = {"Content-Type": "image/jpeg", "X-Deadline-Ms": "9000"}
            return await client.post("/v1/detect", content=JPEG, headers=headers)
    finally:
        await backend.stop(1.0)


def test_a_request_meets_every_module_that_the_page_names() -> None:
    steps = PAGE.read_text().partition("## In the event loop")[2].partition("## Other ways")[0]
    named = set(re.findall(r"`(serving/[\w/]+\.py)`", steps))
    assert len(named) > 15
    met: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            met.add(frame.f_code.co_filename)

    threading.setprofile(note)  # of threads that start from now on
    sys.setprofile(note)
    try:
        response = asyncio.run(detect())
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert response.status_code == 200
    paths = {f"serving/{Path(each).relative_to(SOURCE)}" for each in met if str(SOURCE) in each}
    assert named - ELSEWHERE <= paths
