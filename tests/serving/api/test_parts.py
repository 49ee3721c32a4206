"""Requests with several parts: images, tiles and regions under one budget."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as PillowImage

from serving.access.keys import digest_of
from serving.api.schemas import PartsResponse
from serving.core.errors import (
    BackendError,
    DeadlineExceeded,
    Overloaded,
    ShedReason,
)
from serving.core.ports import Image
from serving.core.request import Answered, Request
from tests.serving.events import NDJSON
from tests.serving.fakes import DETECTIONS, JPEG, encode, forever, picture
from tests.serving.gateway import Gateway, problem, slug

pytestmark = pytest.mark.anyio

LARGE = encode(picture(640, 480), "JPEG")
PNG = encode(picture(40, 30), "PNG")
SIDEWAYS = 6  # as cameras that are held upright say


OVERLOADED = Overloaded("Not now.", ShedReason.REJECTED_OVERLOAD, 0.5)


async def several(gateway: Gateway, *images: bytes, **params: Any) -> httpx.Response:
    async with gateway.client() as client:
        files = [("image", ("image", image)) for image in images]
        return await client.post("/v1/detect", files=files, params=params)


async def cut(gateway: Gateway, content: bytes = LARGE, **params: Any) -> httpx.Response:
    return await gateway.detect(content, params=params)


def outcomes(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    body = PartsResponse.model_validate_json(response.content)
    assert body.num_answered == sum(part.outcome == "answered" for part in body.parts)
    assert body.num_parts == len(body.parts)
    return [part.outcome for part in body.parts]


def failing_at(gateway: Gateway, error: BaseException, *places: int) -> None:
    """Those requests fail that the backend gets at these places."""

    async def behaviour(image: Image, request: Request) -> Answered:
        place = next(i for i, (_, seen) in enumerate(gateway.backend.seen) if seen is request)
        if place in places:
            raise error
        return await gateway.backend.answer(image, request)

    gateway.backend.behaviour = behaviour


class TestImages:
    async def test_each_has_its_own_outcome(self, gateway: Gateway) -> None:
        response = await several(gateway, JPEG, PNG, b"none")
        assert outcomes(response) == ["answered", "answered", "unsupported-image"]
        parts = response.json()["parts"]
        assert [part.get("image") for part in parts] == [
            {"width": 64, "height": 48},
            {"width": 40, "height": 30},
            None,
        ]
        assert len(parts[0]["detections"]) == parts[0]["num_detections"] == 3
        assert parts[2]["problem"]["status"] == 415
        assert gateway.outcomes() == {"ok": 2, "invalid": 1}

    async def test_they_share_the_deadline(self, gateway: Gateway) -> None:
        await several(gateway, JPEG, JPEG, JPEG, deadline_ms="100")
        requests = [request for _, request in gateway.backend.seen]
        assert len({request.id for request in requests}) == 3
        assert len({request.deadline_s for request in requests}) == 1
        assert len({request.group for request in requests}) == 1
        assert requests[0].group is not None
        assert requests[0].deadline_s < gateway.clock.now + 0.1

    async def test_all_of_them_unsound(self, gateway: Gateway) -> None:
        assert slug(await several(gateway, b"none", b"nothing")) == "unsupported-image"
        assert gateway.outcomes() == {"invalid": 1}

    async def test_a_damaged_one(self, gateway: Gateway) -> None:
        response = await several(gateway, JPEG, LARGE[:-2000])
        assert outcomes(response) == ["answered", "invalid-image"]

    async def test_one_is_as_ever(self, gateway: Gateway) -> None:
        assert "parts" not in (await several(gateway, JPEG)).json()

    async def test_too_many(self) -> None:
        gateway = Gateway(max_parts=2)
        assert slug(await several(gateway, JPEG, JPEG, JPEG)) == "invalid-request"
        assert slug(await cut(gateway, tiles="1x3")) == "payload-too-large"

    async def test_too_many_pixels(self) -> None:
        gateway = Gateway(max_part_pixels=64 * 48 * 2)
        assert (await several(gateway, JPEG, JPEG)).status_code == 200
        assert slug(await several(gateway, JPEG, JPEG, PNG)) == "payload-too-large"
        assert slug(await cut(gateway, regions="0,0,64,48;0,0,64,48;0,0,64,48")) == (
            "payload-too-large"
        )

    async def test_several_cannot_be_cut(self, gateway: Gateway) -> None:
        assert slug(await several(gateway, JPEG, JPEG, tiles="2x2")) == "invalid-parameter"

    async def test_no_stream(self, gateway: Gateway) -> None:
        response = await gateway.detect(LARGE, params={"tiles": "2x2"}, headers={"Accept": NDJSON})
        assert problem(response)["status"] == 400
        assert gateway.outcomes() == {"invalid": 1}


class TestTiles:
    async def test_boxes_are_merged_in_pixels_of_the_image(self, gateway: Gateway) -> None:
        response = await cut(gateway, tiles="1x2", overlap="0")
        assert outcomes(response) == ["answered"] * 2
        body = response.json()
        assert body["image"] == {"width": 640, "height": 480}
        assert [part["region"] for part in body["parts"]] == [[0, 0, 320, 480], [320, 0, 640, 480]]
        # A tile of 320 x 480 is a fifth of its size in the input: 64 x 96.
        first = (DETECTIONS.boxes_xyxy_input[0] * 5).tolist()
        boxes = [each["box"] for each in body["detections"] if each["score"] == 0.9]
        assert boxes == [first, [first[0] + 320, first[1], first[2] + 320, first[3]]]
        assert all("detections" not in part for part in body["parts"])

    async def test_the_whole_image_as_well(self, gateway: Gateway) -> None:
        response = await cut(gateway, tiles="2x2", whole="true")
        assert response.json()["parts"][-1]["region"] == [0, 0, 640, 480]
        assert len(gateway.backend.seen) == 5

    async def test_what_each_looks_at(self, gateway: Gateway) -> None:
        await cut(gateway, tiles="2x2", overlap="0")
        seen = [np.asarray(image).mean(axis=(0, 1)) for image, _ in gateway.backend.seen]
        expected = [[220, 30, 30], [90, 90, 90], [30, 200, 30], [30, 30, 210]]
        found = sorted((pixels.round().tolist() for pixels in seen), reverse=True)
        np.testing.assert_allclose(found, expected, atol=2)

    async def test_a_damaged_image(self, gateway: Gateway) -> None:
        assert slug(await cut(gateway, LARGE[:-2000], tiles="2x2")) == "invalid-image"
        assert gateway.outcomes() == {"invalid": 1}

    async def test_an_image_that_is_stored_sideways(self, gateway: Gateway) -> None:
        stored = PillowImage.fromarray(picture(640, 480))
        exif = stored.getexif()
        exif[0x0112] = SIDEWAYS
        response = await cut(gateway, encode(stored, "JPEG", exif=exif.tobytes()), tiles="1x2")
        assert response.json()["image"] == {"width": 480, "height": 640}

    @pytest.mark.parametrize("params", [{"tiles": "9x1"}, {"tiles": "1x1", "overlap": "1"}])
    async def test_that_make_no_sense(self, gateway: Gateway, params: dict[str, str]) -> None:
        assert slug(await cut(gateway, JPEG, **params)) == "invalid-parameter"
        assert gateway.outcomes() == {"invalid": 1}

    async def test_more_memory_than_there_is(self) -> None:
        gateway = Gateway(max_decode_bytes=64 * 2**20)
        large = encode(np.zeros((1700, 2200, 3), np.uint8), "PNG")
        assert slug(await cut(gateway, large, tiles="4x4", overlap="0.5")) == "payload-too-large"
        assert (await gateway.detect(large)).status_code == 200

    async def test_no_room_for_the_pixels(self) -> None:
        gateway = Gateway(max_bodies_bytes=600_000, max_body_bytes=100_000)
        response = await cut(gateway, tiles="1x1", overlap="0")
        assert problem(response)["reason"] == "rejected-saturated"
        assert gateway.outcomes() == {"rejected": 1}
        assert (await gateway.detect()).status_code == 200

    async def test_merging_is_not_refused_for_want_of_a_thread(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def full(*_: object) -> None:
            raise OVERLOADED

        monkeypatch.setattr("serving.api.parts.MAX_MERGED_INLINE", 0)
        threaded = await cut(gateway, tiles="2x2")
        monkeypatch.setattr("serving.imaging.decode_pool.DecodePool.run", full)
        inline = await cut(gateway, tiles="2x2")
        assert inline.json()["detections"] == threaded.json()["detections"]


class TestRegions:
    async def test_boxes_of_each_in_pixels_of_the_image(self, gateway: Gateway) -> None:
        response = await cut(gateway, regions="0,0,128,96;100,200,228,296")
        body = response.json()
        assert "detections" not in body
        first, second = (part["detections"][0]["box"] for part in body["parts"])
        assert first == DETECTIONS.boxes_xyxy_input[0].tolist()
        assert second == [first[0] + 100, first[1] + 200, first[2] + 100, first[3] + 200]

    async def test_beyond_the_image(self, gateway: Gateway) -> None:
        response = await cut(gateway, regions="600,400,700,500;640,0,700,50")
        assert outcomes(response) == ["answered", "invalid-parameter"]
        assert response.json()["parts"][0]["region"] == [600, 400, 640, 480]
        assert slug(await cut(gateway, regions="640,0,700,50")) == "invalid-parameter"


class TestEnds:
    async def test_some_are_shed(self, gateway: Gateway) -> None:
        failing_at(gateway, OVERLOADED, 1, 2)
        response = await cut(gateway, tiles="2x2")
        ends = outcomes(response)
        assert sorted(ends) == ["answered", "answered", "overloaded", "overloaded"]
        told = response.json()["parts"][ends.index("overloaded")]["problem"]
        assert (told["status"], told["reason"]) == (503, "rejected-overload")
        assert gateway.outcomes() == {"ok": 2, "rejected": 2}

    async def test_none_has_an_answer(self, gateway: Gateway) -> None:
        failing_at(gateway, OVERLOADED, 0, 1, 2, 3)
        response = await cut(gateway, tiles="2x2")
        assert response.status_code == 503
        assert slug(response) == "overloaded"
        assert gateway.outcomes() == {"rejected": 4}

    async def test_what_could_be_tried_is_told_of(self, gateway: Gateway) -> None:
        failing_at(gateway, Overloaded("Full.", ShedReason.REJECTED_SATURATED), 0)
        response = await several(gateway, b"none", JPEG)
        assert slug(response) == "overloaded"
        assert gateway.outcomes() == {"invalid": 1, "rejected": 1}

    async def test_one_is_missed(self, gateway: Gateway) -> None:
        failing_at(gateway, DeadlineExceeded("Too late."), 3)
        assert outcomes(await cut(gateway, tiles="2x2")).count("deadline-exceeded") == 1
        assert gateway.outcomes() == {"ok": 3, "late": 1}

    @pytest.mark.parametrize("error", [BackendError("It broke."), RuntimeError("a defect")])
    async def test_one_fails(self, gateway: Gateway, error: Exception) -> None:
        failing_at(gateway, error, 0)
        ends = outcomes(await cut(gateway, tiles="2x2"))
        assert sorted(ends) == sorted([getattr(error, "slug", "internal"), *["answered"] * 3])
        assert gateway.outcomes() == {"ok": 3, "error": 1}

    async def test_the_reply_comes_too_late(self, gateway: Gateway) -> None:
        async def late(image: Image, request: Request) -> Answered:
            answered = await gateway.backend.answer(image, request)
            gateway.clock.now = request.deadline_s + 1.0
            return answered

        gateway.backend.behaviour = late
        assert slug(await cut(gateway, tiles="1x2")) == "deadline-exceeded"
        assert gateway.outcomes() == {"late": 2}

    async def test_the_client_leaves(self, gateway: Gateway) -> None:
        gateway.backend.behaviour = forever
        asking = asyncio.create_task(cut(gateway, tiles="2x2", deadline_ms="9000"))
        while len(gateway.backend.seen) < 4:
            await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.wait([asking])
        assert gateway.outcomes() == {"cancelled": 4}
        gateway.backend.behaviour = gateway.backend.answer
        assert (await gateway.detect()).status_code == 200

    async def test_a_place_for_each(self) -> None:
        """What has none is refused, and all are given back."""
        gateway = Gateway(max_requests=2)
        for _ in range(2):
            ends = outcomes(await cut(gateway, tiles="2x2"))
            assert sorted(ends) == ["answered", "answered", "overloaded", "overloaded"]

    async def test_places_of_a_principal_and_its_rate(self, tmp_path: Path) -> None:
        key = "k" * 40
        path = tmp_path / "keys.json"
        entry = {"name": "tiler", "sha256": digest_of(key.encode()), "rate": 8, "max_requests": 3}
        path.write_text(json.dumps({"principal": [entry]}))
        gateway = Gateway(keys_file=path)
        headers = {"Authorization": f"Bearer {key}"}
        response = await gateway.detect(LARGE, params={"tiles": "2x2"}, headers=headers)
        assert sorted(outcomes(response)) == ["answered"] * 3 + ["too-many-requests"]
        again = await gateway.detect(LARGE, params={"tiles": "3x3"}, headers=headers)
        assert again.status_code == 200
        refused = await gateway.detect(LARGE, headers=headers)
        assert slug(refused) == "too-many-requests"
        # 4 and 9 of the 8 that there were: another one is there once six have come.
        assert problem(refused)["retry_after_ms"] == pytest.approx(6000 / 8)
