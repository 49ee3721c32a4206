"""Frames over plain HTTP: ``POST /v1/detect?stream=NAME&frame=N``."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from serving.api.frames import FrameTurns
from serving.core.errors import FrameSuperseded
from serving.core.ports import Image
from serving.core.request import Answered, Request
from serving.core.streams import Streams
from tests.serving.api.test_access_gate import key, key_file
from tests.serving.gateway import Gateway, problem, slug

pytestmark = pytest.mark.anyio


def frame(number: int, stream: str = "cam") -> dict[str, Any]:
    return {"stream": stream, "frame": number}


async def test_numbers_grow() -> None:
    gateway = Gateway()
    for number, status in ((0, 200), (7, 200), (7, 409), (3, 409), (2**63 - 1, 200)):
        response = await gateway.detect(params=frame(number))
        assert response.status_code == status
        if status == 409:
            assert slug(response) == "superseded"
            assert f"Frame {number} is not newer" in problem(response)["detail"]
    assert (await gateway.detect(params=frame(1, "door"))).status_code == 200
    assert [request.stream for _, request in gateway.backend.seen] == ["cam"] * 3 + ["door"]
    assert gateway.outcomes() == {"ok": 4, "superseded": 2}


@pytest.mark.parametrize(
    "params",
    [
        {"stream": "cam"},
        {"frame": 1},
        {"stream": "", "frame": 1},
        {"stream": "a b", "frame": 1},
        {"stream": ["a", "b"], "frame": 1},
        {"stream": "cam", "frame": "-1"},
        {"stream": "cam", "frame": "1.5"},
        {"stream": "cam", "frame": 2**63},
        {"stream": "cam", "frame": "9" * 30},
    ],
)
async def test_what_makes_no_sense_is_refused(params: dict[str, Any]) -> None:
    gateway = Gateway()
    assert slug(await gateway.detect(params=params)) == "invalid-parameter"
    assert gateway.outcomes() == {"invalid": 1}


async def test_nobody_supersedes_the_frames_of_somebody_else(tmp_path: Path) -> None:
    gateway = Gateway(keys_file=key_file(tmp_path))
    for name, number in (("plain", 9), ("other", 1)):
        response = await gateway.detect(params=frame(number), headers=key(name))
        assert response.status_code == 200


async def test_one_that_was_refused_supersedes_nobody() -> None:
    gateway = Gateway(max_stream_frames=1)
    go_on = asyncio.Event()

    async def wait(image: Image, request: Request) -> Answered:
        await go_on.wait()
        return await gateway.backend.answer(image, request)

    gateway.backend.behaviour = wait
    running = [asyncio.create_task(gateway.detect(params=frame(n))) for n in (1, 2)]
    while not gateway.backend.seen:
        await asyncio.sleep(0.001)
    assert slug(await gateway.detect(b"no image", params=frame(3))) == "unsupported-image"
    hasty = await gateway.detect(params=frame(4), headers={"X-Deadline-Ms": "0.5"})
    assert slug(hasty) == "budget-infeasible"
    go_on.set()
    assert {(await each).status_code for each in running} == {200}


async def test_who_waited_does_not_supersede_a_newer_one_that_did_not() -> None:
    """Two turns end at once: one goes to whoever waits, who hears of it a moment later than a frame
    that has come meanwhile takes the other."""
    turns = FrameTurns(Streams(8, 2, 60.0), float)
    with contextlib.ExitStack() as inside:
        ends = [contextlib.ExitStack() for _ in range(2)]
        for number, end in enumerate(ends, 1):
            first = end.enter_context(turns.entered(("", "cam"), number))
            turns.admit(first)
            await turns.turn(first)
        waits, comes = (inside.enter_context(turns.entered(("", "cam"), n)) for n in (3, 4))
        turns.admit(waits)
        waiting = asyncio.ensure_future(turns.turn(waits))
        await asyncio.sleep(0)
        for end in ends:
            end.close()
        turns.admit(comes)
        await turns.turn(comes)
        with pytest.raises(FrameSuperseded):
            await waiting
