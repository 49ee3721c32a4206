"""Cameras on a gateway that answers at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from loadtest.servers.processes import StudyError
from loadtest.studies.cameras.frames import End, shots
from loadtest.studies.cameras.live import LIVE, _run
from loadtest.studies.cameras.simulation import STREAMS, Plan, System
from loadtest.workload.images import AnnotatedImage
from serving.core.errors import DeadlineExceeded, FrameSuperseded
from serving.core.request import Answered
from tests.serving.fakes import JPEG
from tests.serving.gateway import Gateway
from tests.serving.streams import serving_streams

pytestmark = pytest.mark.anyio

PLAN = Plan((1.0,), 50.0, 10.0, 0.1, 1)
IMAGES = [AnnotatedImage("a", JPEG, "image/jpeg")]


@pytest.mark.parametrize("system", LIVE, ids=lambda system: system.name)
async def test_each_frame_has_an_end(system: System) -> None:
    gateway = Gateway()
    taken = shots(3, PLAN.rate_hz, PLAN.duration_s, np.random.default_rng(0))
    async with serving_streams(gateway) as server:
        outcomes = await _run(f"http://127.0.0.1:{server.port}", system, taken, IMAGES, PLAN)
    # On a busy machine frames come closer together than they were sent.
    ends = Counter(outcome.end for outcome in outcomes)
    assert ends[End.IN_TIME] > 0
    assert set(ends) <= {End.IN_TIME, End.SUPERSEDED} if system.has_streams else {End.IN_TIME}
    assert sorted(o.shot.taken_s for o in outcomes) == [shot.taken_s for shot in taken]
    counts = {"ok": ends[End.IN_TIME], "superseded": ends[End.SUPERSEDED]}
    assert gateway.outcomes() == {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize(
    ("error", "end"), [(FrameSuperseded("x"), End.SUPERSEDED), (DeadlineExceeded("x"), End.LATE)]
)
async def test_others_are_told_apart(error: Exception, end: End) -> None:
    gateway = Gateway()

    async def failing(*_: object) -> Answered:
        raise error

    gateway.backend.behaviour = failing
    taken = shots(1, PLAN.rate_hz, 1.0 / PLAN.rate_hz, np.random.default_rng(0))
    assert len(taken) == 1
    async with serving_streams(gateway) as server, gateway.busy():
        outcomes = await _run(f"http://127.0.0.1:{server.port}", STREAMS, taken, IMAGES, PLAN)
    assert {outcome.end for outcome in outcomes} == {end}


async def test_a_server_that_is_not_there() -> None:
    taken = shots(1, 50.0, 0.1, np.random.default_rng(0))
    with pytest.raises(StudyError, match="a camera cannot connect"):
        await _run("http://127.0.0.1:1", replace(STREAMS), taken, IMAGES, PLAN)
