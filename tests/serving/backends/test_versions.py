"""Versions of a model that come and go behind one backend, over backends that are fakes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serving.backends import versions as versions_module
from serving.backends.model_changes import ChangeableBackend
from serving.core.agreement import Agreement
from serving.core.catalog import SegmentFile
from serving.core.command_errors import CommandError
from serving.core.errors import BackendError, ModelRefused, ModelUnloaded
from serving.core.family import Family
from serving.core.model_versions import LoadOptions, Role
from serving.core.ports import Backend, Image
from serving.core.request import Answered, Detections, Request
from tests.serving.fakes import CATALOG, DETECTIONS, FakeBackend, family_of

pytestmark = pytest.mark.anyio

IMAGE: Image = np.zeros((96, 128, 3), np.uint8)


def family(version: str, **changes: Any) -> Family:
    segments = {"stem": SegmentFile("stem.onnx", version * 64)}
    return family_of(replace(CATALOG, version=version, segments=segments, **changes))


class Version(FakeBackend):
    """A version whose answers may have to wait, and that counts them as inside."""

    def __init__(self, of: Family) -> None:
        super().__init__(time.monotonic, family=of)
        self.ready = False
        self.gate: asyncio.Event | None = None
        self.found = DETECTIONS

    async def answer(self, image: Image, request: Request, depth: int | None = None) -> Answered:
        self.num_waiting += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.num_waiting -= 1
        answered = await super().answer(image, request, depth)
        return replace(answered, family=self.family, detections=self.found)

    async def stop(self, grace_s: float) -> None:
        while self.num_waiting:
            await asyncio.sleep(0)
        await super().stop(grace_s)


class Recorder:
    """What was told of versions."""

    def __init__(self) -> None:
        self.named: list[tuple[str, ...]] = []
        self.changes: list[str] = []
        self.shadows: Counter[str] = Counter()
        self.agreements: list[Agreement] = []

    def name_versions(self, releases: tuple[str, ...]) -> None:
        self.named.append(releases)

    def changed_model(self, ending: str) -> None:
        self.changes.append(ending)

    def shadowed(self, end: str) -> None:
        self.shadows[end] += 1

    def compared(self, agreement: Agreement) -> None:
        self.agreements.append(agreement)


class Bench:
    """A server with version 1, and a repository in which another may be put."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.first = Version(family("1"))
        self.opened: list[tuple[Version, bool]] = []
        self.lies: Family | CommandError = self.first.family
        self.trial: Exception | None = None
        self.prepare: Callable[[Version], None] = lambda _: None
        self.backend = ChangeableBackend(
            self.first,
            self.find,
            lambda _: IMAGE,
            time.monotonic,
            self.recorder,
            drain_s=7.0,
        )
        self.changes = self.backend.changes

    def find(self) -> Any:
        if isinstance(self.lies, CommandError):
            raise self.lies
        bench, lies = self, self.lies

        class Lying:
            family = lies

            def open(self, beside: bool) -> Backend:
                if bench.trial is not None:
                    raise bench.trial
                version = Version(lies)
                bench.prepare(version)
                bench.opened.append((version, beside))
                return version

        return Lying()

    async def ask(self, number: int = 0) -> str:
        """The version that answers one request."""
        now_s = time.monotonic()
        request = Request(number, now_s, now_s + 60.0, 1, 3)
        async with aclosing(self.backend.stream(IMAGE, request)) as answers:
            (answered,) = [answered async for answered in answers]
        assert answered.family is not None
        return answered.family.version

    async def load(self, version: str, **wanted: Any) -> str:
        self.lies = family(version)
        return await self.changes.load(LoadOptions(**wanted))

    def roles(self) -> dict[str, Role]:
        return {each.version: each.role for each in self.backend.versions()}


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    await bench.backend.start()
    return bench


async def test_a_new_version_takes_the_place_of_the_old_one(bench: Bench) -> None:
    assert await bench.ask() == "1"
    assert await bench.load("2") == f"cells {family('2').release} serves"
    assert await bench.ask() == "2"
    assert bench.backend.family.version == "2"
    ((_, beside),) = bench.opened
    assert beside
    assert bench.first.stopped_with == 7.0
    assert bench.recorder.changes == ["loaded"]
    assert bench.recorder.named[-1] == (family("2").release,)


async def test_who_came_before_the_swap_ends_with_the_old_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is no instant without anybody inside."""
    monkeypatch.setattr(versions_module, "QUIET_WITHIN_S", 0.0)
    bench.first.gate = asyncio.Event()
    early = asyncio.create_task(bench.ask())
    loading = asyncio.create_task(bench.load("2"))
    while bench.backend.family.version == "1":
        await asyncio.sleep(0)
    assert await bench.ask() == "2"
    assert bench.first.stopped_with is None
    assert bench.backend.num_waiting == 1
    bench.first.gate.set()
    assert await early == "1"
    await loading
    assert bench.first.stopped_with is not None


async def test_versions_are_swapped_when_nobody_is_inside(bench: Bench) -> None:
    bench.first.gate = asyncio.Event()
    early = asyncio.create_task(bench.ask())
    loading = asyncio.create_task(bench.load("2"))
    while not bench.opened or not bench.opened[0][0].seen:
        await asyncio.sleep(0.001)
    assert bench.backend.family.version == "1"
    bench.first.gate.set()
    assert await early == "1"
    await loading
    assert await bench.ask() == "2"


@pytest.mark.parametrize("what", ["files", "trial", "start", "answer", "obstacle"])
async def test_what_cannot_serve_leaves_what_does(bench: Bench, what: str) -> None:
    bench.lies = family("2")
    if what == "files":
        bench.lies = CommandError("head_1.onnx is not the file that was built")
    if what == "trial":
        bench.trial = CommandError("it takes more than 64 megabytes")
    if what == "start":
        bench.prepare = lambda version: setattr(version, "start_error", BackendError("no memory"))
    if what == "answer":

        async def nonsense(*_: object) -> Answered:
            raise BackendError("The engine's answer makes no sense.")

        bench.prepare = lambda version: setattr(version, "behaviour", nonsense)
    if what == "obstacle":
        bench.lies = family("2", classes=("circle", "line"))
    with pytest.raises(ModelRefused) as refused:
        await bench.changes.load(LoadOptions())
    because = {
        "files": "is not the file that was built",
        "trial": "more than 64 megabytes",
        "start": "no memory",
        "answer": "makes no sense",
        "obstacle": "its classes are another",
    }
    assert because[what] in refused.value.detail
    assert await bench.ask() == "1"
    assert bench.first.stopped_with is None
    assert all(version.stopped_with is not None for version, _ in bench.opened)
    assert bench.recorder.changes == ["refused"]
    assert bench.recorder.named[-1] == (family("1").release,)
    bench.trial, bench.prepare = None, lambda _: None
    await bench.load("3")
    assert await bench.ask() == "3"


async def test_one_change_at_a_time(bench: Bench) -> None:
    bench.first.gate = asyncio.Event()
    asking = asyncio.create_task(bench.ask())
    await asyncio.sleep(0)
    loading = asyncio.create_task(bench.load("2"))
    await asyncio.sleep(0)
    assert bench.changes.is_changing
    with pytest.raises(ModelRefused, match="Another change"):
        await bench.changes.unload()
    bench.first.gate.set()
    await asyncio.gather(asking, loading)
    assert not bench.changes.is_changing


async def test_a_change_outlives_whoever_asked_for_it(bench: Bench) -> None:
    loading = asyncio.create_task(bench.load("2"))
    await asyncio.sleep(0)
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    while bench.changes.is_changing:
        await asyncio.sleep(0.001)
    assert await bench.ask() == "2"


async def test_what_serves_is_not_loaded_again_unless_that_is_wanted(bench: Bench) -> None:
    assert "serves already" in await bench.load("1")
    assert not bench.opened
    await bench.load("1", again=True)
    assert len(bench.opened) == 1
    assert bench.recorder.changes == ["unchanged", "loaded"]
    with pytest.raises(ModelRefused, match="nothing else lies in the repository"):
        await bench.load("1", shadow=True)


# ---- a canary -----------------------------------------------------------------------------------


async def test_a_canary_answers_its_share_evenly(bench: Bench) -> None:
    await bench.load("2", share=0.25)
    told = [await bench.ask(number) for number in range(40)]
    assert Counter(told) == {"1": 30, "2": 10}
    assert all(Counter(told[start : start + 4])["2"] == 1 for start in range(0, 40, 4))
    assert [each.share for each in bench.backend.versions()] == [0.75, 0.25]
    assert bench.backend.family.version == "1"


async def test_a_canary_that_is_not_ready_costs_nobody_anything(bench: Bench) -> None:
    await bench.load("2", share=0.5)
    ((canary, _),) = bench.opened
    canary.ready = False
    assert {await bench.ask(number) for number in range(10)} == {"1"}
    assert bench.backend.ready
    canary.ready = True
    assert Counter([await bench.ask(number) for number in range(10)])["2"] == 5
    canary.ready = False
    with pytest.raises(ModelRefused, match="is not ready"):
        await bench.load("2")


async def test_a_canary_becomes_what_serves_without_being_opened_again(bench: Bench) -> None:
    await bench.load("2", share=0.5)
    await bench.load("2", share=0.1)
    assert bench.backend.versions()[1].share == 0.1
    await bench.load("2")
    assert len(bench.opened) == 1
    assert bench.roles() == {"2": Role.CURRENT}
    assert bench.first.stopped_with is not None


async def test_there_are_two_versions_at_most(bench: Bench) -> None:
    await bench.load("2", share=0.5)
    await bench.load("3", share=0.5)
    ((second, _), _) = bench.opened
    assert second.stopped_with is not None
    assert bench.roles() == {"1": Role.CURRENT, "3": Role.CANARY}


async def test_a_candidate_can_be_withdrawn(bench: Bench) -> None:
    with pytest.raises(ModelRefused, match="no version beside"):
        await bench.changes.unload(candidate_only=True)
    await bench.load("2", share=0.5)
    await bench.changes.unload(candidate_only=True)
    assert bench.roles() == {"1": Role.CURRENT}
    assert {await bench.ask(number) for number in range(4)} == {"1"}


# ---- a shadow -----------------------------------------------------------------------------------


async def shadowed(bench: Bench, count: int) -> None:
    """Wait until so many answers have been shadowed, or not."""
    while bench.recorder.shadows.total() < count:
        await asyncio.sleep(0)


async def test_a_shadow_answers_nobody_and_is_compared(bench: Bench) -> None:
    other = Detections(
        DETECTIONS.boxes_xyxy_input[:1], DETECTIONS.scores[:1] - np.float32(0.1), np.array([1])
    )
    bench.prepare = lambda version: setattr(version, "found", other)
    await bench.load("2", shadow=True)
    assert await bench.ask() == "1"
    await shadowed(bench, 1)
    assert bench.recorder.shadows == {"compared": 1}
    (agreement,) = bench.recorder.agreements
    assert agreement.num_unmatched == (1, 0)
    assert agreement.score_differences == pytest.approx((0.1,))
    assert [each.share for each in bench.backend.versions()] == [1.0, 0.0]


async def test_a_shadow_makes_way(bench: Bench) -> None:
    gate = asyncio.Event()
    await bench.load("2", shadow=True)
    bench.opened[0][0].gate = gate
    await bench.ask()
    await asyncio.sleep(0)
    assert bench.opened[0][0].num_waiting == 1
    await bench.ask()
    gate.set()
    await shadowed(bench, 2)
    assert bench.recorder.shadows["gave-way"] == 1
    assert bench.recorder.shadows.total() == 2, "every answer is shadowed, or counted as not"


async def test_a_shadow_does_not_begin_while_somebody_is_inside(bench: Bench) -> None:
    await bench.load("2", shadow=True)
    bench.first.gate = asyncio.Event()
    waiting = asyncio.create_task(bench.ask())
    await asyncio.sleep(0)
    gate, bench.first.gate = bench.first.gate, None
    await bench.ask()
    assert bench.recorder.shadows == {"busy": 1}
    gate.set()
    await waiting


async def test_a_shadow_that_fails_is_counted(bench: Bench) -> None:
    await bench.load("2", shadow=True)

    async def fails(*_: object) -> Any:
        raise BackendError("The engine failed.")
        yield

    bench.opened[0][0].growth = fails
    assert await bench.ask() == "1"
    await shadowed(bench, 1)
    assert bench.recorder.shadows == {"failed": 1}


# ---- unloading ----------------------------------------------------------------------------------


async def test_an_unloaded_model_is_not_ready_and_says_so(bench: Bench) -> None:
    await bench.load("2", share=0.5)
    await bench.changes.unload()
    assert not bench.backend.ready
    assert bench.backend.alive
    with pytest.raises(ModelUnloaded, match="cells was unloaded"):
        await bench.ask()
    assert isinstance(bench.backend.absence, ModelUnloaded)
    assert bench.first.stopped_with == bench.opened[0][0].stopped_with == 7.0
    assert "unloaded before" in await bench.changes.unload()
    with pytest.raises(ModelRefused, match="no version that it could be a canary of"):
        await bench.load("2", share=0.5)
    await bench.load("2")
    assert not bench.opened[-1][1], "nothing serves beside it"
    assert await bench.ask() == "2"


async def test_stopping_stops_every_version(bench: Bench) -> None:
    await bench.load("2", shadow=True)
    await bench.backend.stop(3.0)
    assert bench.first.stopped_with == bench.opened[0][0].stopped_with == 3.0
    with pytest.raises(ModelRefused, match="starting or ending"):
        await bench.changes.unload()
