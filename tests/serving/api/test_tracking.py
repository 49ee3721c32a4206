"""Objects in streams: which boxes of successive frames are of one, over HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.api import tracking
from serving.api.box_tracker import (
    BEGIN_SCORE,
    LOST_FRAMES,
    LOST_S,
    MAX_BOXES,
    MAX_TRACKS,
    BoxTracker,
)
from serving.api.schemas import DetectionResponse
from serving.api.tracking import Tracking
from serving.core.errors import InvalidParameter
from serving.core.ports import Image
from serving.core.request import Answered, Detections, Request
from serving.core.streams import Frame, Streams
from tests.serving.api.test_stream_session import refusal
from tests.serving.events import SSE
from tests.serving.fakes import JPEG
from tests.serving.gateway import Gateway, problem, slug
from tests.serving.streams import serving_streams

anyio = pytest.mark.anyio

FIRST_ID = 1
AMPLE_MS = 9000
"""A budget that a machine with much else to do keeps to."""
SIDE = 40.0
STEP_S = 0.1
KEY = ("somebody", "cam")

Seen = tuple[float, float, float, int]
"""Left, top, score and label of a box."""


def boxes(seen: Sequence[Seen]) -> tuple[Any, Any, Any]:
    corners = [(x, y, x + SIDE, y + SIDE) for x, y, _, _ in seen]
    return (
        np.array(corners, dtype=np.float32).reshape(-1, 4),
        np.array([score for *_, score, _ in seen], dtype=np.float32),
        np.array([label for *_, label in seen], dtype=np.int32),
    )


class Film:
    """A tracker, and the frames that it is shown."""

    def __init__(self, rate_hz: float | None = None, first_id: int = FIRST_ID) -> None:
        self.tracker = BoxTracker(rate_hz, first_id)
        self.now_s = 0.0

    def show(self, *seen: Seen, after_s: float = STEP_S) -> list[int | None]:
        self.now_s += after_s
        return list(self.tracker.update(*boxes(seen), self.now_s))


class TestBoxes:
    def test_one_that_moves_is_one_object(self) -> None:
        film = Film()
        assert film.show((0.0, 50.0, 0.9, 0)) == [None], "it was seen once"
        for step in range(1, 20):
            assert film.show((8.0 * step, 50.0, 0.9, 0)) == [FIRST_ID]

    def test_two_keep_theirs_in_whatever_order_they_come(self) -> None:
        film = Film()
        for step in range(12):
            right, left = (5.0 * step, 0.0, 0.6, 0), (400.0 - 5.0 * step, 200.0, 0.9, 0)
            ids = film.show(*((right, left) if step % 2 else (left, right)))
            if step:
                assert ids == ([2, 1] if step % 2 else [1, 2])

    def test_one_is_known_again_after_a_gap(self) -> None:
        film = Film()
        for step in range(6):
            film.show((10.0 * step, 0.0, 0.9, 0))
        for _ in range(3):
            assert film.show() == []
        # It went on meanwhile, as superseded frames would have shown.
        assert film.show((90.0, 0.0, 0.9, 0)) == [FIRST_ID]
        assert film.show((140.0, 0.0, 0.9, 0), after_s=5 * STEP_S) == [FIRST_ID]

    @pytest.mark.parametrize("rate_hz", [None, 0.5, 1000.0])
    def test_one_that_is_away_for_long_is_another(self, rate_hz: float | None) -> None:
        lost_s = max(LOST_S, LOST_FRAMES / (rate_hz or 1000.0))
        for after_s, again in ((0.9 * lost_s, FIRST_ID), (1.1 * lost_s, None)):
            film = Film(rate_hz)
            for _ in range(3):
                ids = film.show((0.0, 0.0, 0.9, 0))
            assert ids == [FIRST_ID]
            assert film.show((0.0, 0.0, 0.9, 0), after_s=after_s) == [again]

    def test_an_object_is_of_one_class(self) -> None:
        film = Film()
        for _ in range(3):
            ids = film.show((0.0, 0.0, 0.9, 7), (2.0, 0.0, 0.8, 79), (300.0, 0.0, 0.7, 0))
        assert sorted(each for each in ids if each is not None) == [1, 2, 3]
        again = film.show((1.0, 0.0, 0.9, 79), (1.0, 0.0, 0.8, 7), (300.0, 0.0, 0.7, 1))
        assert again == [ids[1], ids[0], None]

    def test_a_low_score_continues_what_a_high_one_began(self) -> None:
        high, low = BEGIN_SCORE + 0.01, BEGIN_SCORE - 0.01
        film = Film()
        assert [film.show((0.0, 0.0, score, 0)) for score in (low, low, high, high, low)] == [
            *([[None]] * 3),
            *([[FIRST_ID]] * 2),
        ]

    def test_frames_at_one_instant_are_still_in_order(self) -> None:
        film = Film()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            film.show((0.0, 0.0, 0.9, 0))
            for after_s in (0.0, -5.0, 0.0):
                assert film.show((0.0, 0.0, 0.9, 0), after_s=after_s) == [FIRST_ID]

    def test_as_many_are_tracked_as_there_is_room_for(self) -> None:
        film = Film()
        many: list[Seen] = [(100.0 * place, 0.0, 0.9, 0) for place in range(MAX_BOXES + 5)]
        for _ in range(2):
            ids = film.show(*many)
        assert [each is not None for each in ids] == [True] * MAX_BOXES + [False] * 5
        for row in range(1, 6):
            for _ in range(2):
                latest = film.show(*((x, 1000.0 * row, 0.9, 0) for x, *_ in many))
        tracks = film.tracker._tracker.tracks
        assert len(tracks) == MAX_TRACKS
        assert {FIRST_ID + track.tracker_id for track in tracks} >= set(latest) - {None}

    def test_a_frame_without_boxes_has_no_ids(self) -> None:
        film = Film()
        assert film.show() == []
        assert film.tracker.next_id == FIRST_ID


@pytest.fixture(scope="module")
def loaded() -> Any:
    return importlib.import_module("serving.api.box_tracker").BoxTracker


class Server:
    """Streams, and their tracking."""

    def __init__(self, loaded: Any = None, idle_s: float = 9.0) -> None:
        self.streams = Streams(max_per_principal=4, max_in_flight=4, idle_s=idle_s)
        self.tracking = Tracking(self.streams)
        self.tracking._make = loaded
        self.now_s = 0.0

    def begin(self, number: int, key: tuple[str, str] = KEY) -> Frame:
        self.now_s += STEP_S
        frame = self.streams.enter(key, number, self.now_s)
        self.streams.admit(frame)
        return frame

    def end(self, frame: Frame, at: float = 0.0) -> list[int | None]:
        ids = self.tracking.of(frame, self.now_s)(*boxes([(at, 0.0, 0.9, 0)]))
        self.streams.leave(frame, self.now_s)
        return list(ids)

    def frame(self, number: int, key: tuple[str, str] = KEY) -> list[int | None]:
        return self.end(self.begin(number, key))


class TestStreams:
    def test_each_has_its_own(self, loaded: Any) -> None:
        server = Server(loaded)
        other = ("somebody else", KEY[1])
        assert [server.frame(n, key) for n in (1, 2) for key in (KEY, other)] == [
            [None],
            [None],
            [FIRST_ID],
            [FIRST_ID],
        ]

    def test_one_that_is_answered_late_has_none_and_changes_nothing(self, loaded: Any) -> None:
        server = Server(loaded)
        server.frame(1)
        late, newer = server.begin(2), server.begin(3)
        assert server.end(newer) == [FIRST_ID]
        assert server.end(late, at=500.0) == [None]
        assert server.frame(4) == [FIRST_ID]

    def test_they_are_forgotten_with_it(self, loaded: Any) -> None:
        server = Server(loaded, idle_s=1.0)
        assert [server.frame(n) for n in (1, 2)] == [[None], [FIRST_ID]]
        server.now_s += 1.0
        assert server.frame(1) == [None], "numbers begin anew, and so does tracking"

    def test_a_connection_that_is_made_again_goes_on(self, loaded: Any) -> None:
        server = Server(loaded)
        for _ in range(2):
            session, _ = server.streams.connect(KEY, server.now_s)
            ids = [server.frame(n) for n in (1, 2)]
            server.streams.disconnect(session, server.now_s)
        assert ids == [[FIRST_ID]] * 2

    def test_with_another_rate_ids_are_not_used_again(self, loaded: Any) -> None:
        server = Server(loaded)
        for rate_hz, expected in ((5.0, FIRST_ID), (20.0, FIRST_ID + 1)):
            session, _ = server.streams.connect(KEY, server.now_s, rate_hz)
            assert [server.frame(n) for n in (1, 2)] == [[None], [expected]]
            tracker = server.streams._streams[KEY].memory[tracking._TRACKER]
            assert tracker.rate_hz == rate_hz
            server.streams.disconnect(session, server.now_s)


class TestLoading:
    def test_until_it_is_loaded_nothing_is_known(self) -> None:
        server = Server()
        assert server.frame(1) == [None]
        server.tracking.ask()
        assert server.tracking._loading is not None
        server.tracking._loading.join()
        assert [server.frame(n) for n in (2, 3)] == [[None], [FIRST_ID]]

    def test_one_that_cannot_be_loaded_is_told_of(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: str) -> None:
            raise ImportError("libGL.so.1: cannot open shared object file")

        monkeypatch.setattr(tracking, "importlib", SimpleNamespace(import_module=fail))
        server = Server()
        with caplog.at_level(logging.ERROR):
            server.tracking.ask()
            assert server.tracking._loading is not None
            server.tracking._loading.join()
        assert "libGL.so.1" in caplog.text
        for _ in range(2):
            with pytest.raises(InvalidParameter, match="could not be loaded"):
                server.tracking.ask()


class Moving:
    """A backend's behaviour: a box that moves by a pixel from frame to frame."""

    def __init__(self, gateway: Gateway) -> None:
        self._backend = gateway.backend
        self._step = 0
        gateway.backend.behaviour = self.answer

    async def answer(self, image: Image, request: Request) -> Answered:
        self._step += 1
        x = float(self._step)
        found = Detections(
            boxes_xyxy_input=np.array([[x, 8, x + 24, 32], [60, 60, 90, 90]], dtype=np.float32),
            scores=np.array([0.9, 0.5], dtype=np.float32),
            labels=np.array([1, 0], dtype=np.int32),
        )
        answered = await self._backend.answer(image, request)
        return replace(answered, detections=found)


def ids(reply: dict[str, Any]) -> list[int | None]:
    return [found["track_id"] for found in reply["detections"]]


@anyio
class TestRequests:
    async def test_over_a_websocket(self) -> None:
        gateway = Gateway()
        Moving(gateway)
        async with (
            serving_streams(gateway) as server,
            server.stream(f"cam?track=true&rate=5&deadline_ms={AMPLE_MS}") as cam,
        ):
            known: list[int | None] = []
            while None in known or not known:  # until it is loaded, and each was seen twice
                await cam.send(JPEG)
                gateway.clock.now += STEP_S
                known = ids(await cam.next())
            await cam.send(b"no image", JPEG)
            assert (await cam.next())["outcome"] == "unsupported-image"
            told = await cam.next()
            assert ids(told) == known
            DetectionResponse.model_validate(told)
            assert len(set(known)) == len(known)

    async def test_over_plain_http(self) -> None:
        gateway = Gateway()
        Moving(gateway)
        known: list[int | None] = []
        number = 0
        while None in known or not known:
            number += 1
            response = await gateway.detect(
                params={
                    "stream": "cam",
                    "frame": number,
                    "track": "true",
                    "deadline_ms": AMPLE_MS,
                }
            )
            known = ids(response.json())
            await asyncio.sleep(0.001)
        assert sorted(each or 0 for each in known) == [FIRST_ID, FIRST_ID + 1]
        unasked = await gateway.detect(
            params={"stream": "cam", "frame": number + 1, "deadline_ms": AMPLE_MS}
        )
        assert all("track_id" not in found for found in unasked.json()["detections"])

    @pytest.mark.parametrize(
        ("params", "why"),
        [
            ({"track": "true"}, "frames of a stream"),
            ({"track": "maybe", "stream": "cam", "frame": 1}, "true or false"),
            ({"track": ["true", "true"], "stream": "cam", "frame": 1}, "true or false"),
        ],
    )
    async def test_what_makes_no_sense_is_refused(self, params: dict[str, Any], why: str) -> None:
        gateway = Gateway()
        response = await gateway.detect(params=params)
        assert slug(response) == "invalid-parameter"
        assert why in problem(response)["detail"]

    async def test_an_answer_that_grows_is_not_tracked(self) -> None:
        response = await Gateway().detect(
            params={"track": "true", "stream": "cam", "frame": 1}, headers={"Accept": SSE}
        )
        assert slug(response) == "invalid-request"

    async def test_without_the_extra_its_name_is_told(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, tracking.LIBRARY, None)  # type: ignore[arg-type]
        gateway = Gateway()
        asked = {"stream": "cam", "frame": 1, "track": "true"}
        response = await gateway.detect(params=asked)
        assert slug(response) == "invalid-parameter"
        assert "punctual[track]" in problem(response)["detail"]
        async with serving_streams(gateway) as server:
            assert (await refusal(server, "cam?track=true")).response.status_code == 400
        response = await gateway.detect(params={**asked, "track": "false"})
        assert response.status_code == 200
