"""The path of DeepStack and CodeProject.AI, as their clients use it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.access.keys import digest_of
from serving.api.deepstack import PATH
from serving.api.schemas import VisionResponse
from serving.core.errors import Overloaded, ShedReason
from serving.core.ports import Image
from serving.core.request import Answered, Request
from tests.serving.fakes import CATALOG, JPEG, family_of
from tests.serving.gateway import Gateway, slug

pytestmark = pytest.mark.anyio

KEY = "k" * 40


async def ask(gateway: Gateway, image: bytes = JPEG, how: Any = None, **fields: str) -> Any:
    async with gateway.client() as client:
        return await client.post(PATH, files={"image": image}, data=fields, **(how or {}))


def error(response: httpx.Response) -> str:
    """What is wrong, in the form that these clients read."""
    body = response.json()
    assert body == {"success": False, "error": body["error"], "code": response.status_code}
    assert "predictions" not in body
    return str(body["error"])


async def test_predictions(gateway: Gateway) -> None:
    response = await ask(gateway)
    assert response.status_code == 200
    body = VisionResponse.model_validate_json(response.content)
    assert [(p.label, p.confidence) for p in body.predictions] == [("square", 0.9), ("circle", 0.5)]
    first = response.json()["predictions"][0]
    assert first == {
        **{"label": "square", "confidence": 0.9},
        **{"x_min": 4, "y_min": 8, "x_max": 12, "y_max": 16},
    }


@pytest.mark.parametrize(("stated", "count"), [("", 2), ("0.6", 1), ("0", 3), ("1", 0)])
async def test_min_confidence(gateway: Gateway, stated: str, count: int) -> None:
    assert (await ask(gateway, min_confidence=stated)).json()["count"] == count


async def test_the_budget_is_a_setting_or_in_the_url() -> None:
    gateway = Gateway(deepstack_budget_ms=70)
    assert (await ask(gateway)).json()["budget_ms"] == 70
    assert (await ask(gateway, how={"params": {"deadline_ms": "40"}})).json()["budget_ms"] == 40
    assert (await gateway.detect()).json()["budget_ms"] == 1000


async def test_options_in_the_url(gateway: Gateway) -> None:
    await ask(gateway, how={"params": {"max_depth": "1"}})
    assert gateway.backend.seen[0][1].max_depth == 1
    assert "no parameter" in error(await ask(gateway, how={"params": {"tiles": "2x2"}}))


async def test_names_are_cocos() -> None:
    """So that nobody stops at the first object whose name it does not know."""
    gateway = Gateway(family_of(replace(CATALOG, classes=("sofa", "tvmonitor"))))
    labels = [each["label"] for each in (await ask(gateway)).json()["predictions"]]
    assert labels == ["tv", "couch"]


@pytest.mark.parametrize(
    ("image", "fields", "status"),
    [
        (b"none", {}, 415),
        (JPEG[:300], {}, 400),
        (JPEG, {"min_confidence": "nan"}, 400),
        (JPEG, {"min_confidence": "1.5"}, 400),
        (JPEG, {"other": "1"}, 400),
    ],
)
async def test_bad_input(
    gateway: Gateway, image: bytes, fields: dict[str, str], status: int
) -> None:
    response = await ask(gateway, image, **fields)
    assert error(response)
    assert response.status_code == status
    assert gateway.outcomes() == {"invalid": 1}


async def test_no_image_and_no_form(gateway: Gateway) -> None:
    async with gateway.client() as client:
        none = await client.post(PATH, files={"api_key": (None, b"k")})
        assert "no field 'image'" in error(none)
        twice = await client.post(PATH, files=[("image", JPEG), ("image", JPEG)])
        assert "more than once" in error(twice)
        bare = await client.post(PATH, content=JPEG, headers={"Content-Type": "image/jpeg"})
        assert bare.status_code == 415
        assert error(bare)


async def test_overload_is_no_empty_answer(gateway: Gateway) -> None:
    async def shed(image: Image, request: Request) -> Answered:
        raise Overloaded("Not now.", ShedReason.REJECTED_SATURATED, 0.5)

    gateway.backend.behaviour = shed
    response = await ask(gateway)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert error(response) == "Not now."


async def test_a_problem_for_who_asks_for_one(gateway: Gateway) -> None:
    how = {"headers": {"Accept": "application/problem+json"}}
    assert slug(await ask(gateway, b"none", how)) == "unsupported-image"


class TestKeys:
    @pytest.fixture
    def guarded(self, tmp_path: Path) -> Gateway:
        path = tmp_path / "keys.json"
        entry = {"name": "frigate", "sha256": digest_of(KEY.encode()), "rate": 1, "share": 2}
        path.write_text(json.dumps({"principal": [entry]}))
        return Gateway(keys_file=path)

    async def test_in_the_form(self, guarded: Gateway) -> None:
        assert (await ask(guarded, api_key=KEY)).status_code == 200
        request = guarded.backend.seen[0][1]
        assert (request.principal, request.share) == ("frigate", 2)
        refused = await ask(guarded, api_key=KEY)
        assert (refused.status_code, guarded.outcomes()) == (429, {"ok": 1, "limited": 1})
        assert error(refused)

    async def test_in_the_head(self, guarded: Gateway) -> None:
        how = {"headers": {"X-API-Key": KEY}}
        assert (await ask(guarded, how=how, api_key="")).status_code == 200

    @pytest.mark.parametrize("fields", [{}, {"api_key": ""}, {"api_key": "wrong"}])
    async def test_none_or_a_wrong_one(self, guarded: Gateway, fields: dict[str, str]) -> None:
        response = await ask(guarded, JPEG, None, **fields)
        assert (response.status_code, guarded.backend.seen) == (401, [])
        assert error(response)
        assert guarded.sample("punctual_refused_total", problem="unauthenticated") == 1
        assert guarded.outcomes() == {"limited": 1}

    async def test_nowhere_else(self, guarded: Gateway) -> None:
        async with guarded.client() as client:
            files = {"image": JPEG}
            reply = await client.post("/v1/detect", files=files, data={"api_key": KEY})
            assert slug(reply) == "unauthenticated"
        assert guarded.backend.seen == []

    async def test_its_place_is_given_back(self, guarded: Gateway) -> None:
        for _ in range(300):
            await ask(guarded, api_key="wrong")
        assert (await ask(guarded, api_key=KEY)).status_code == 200
