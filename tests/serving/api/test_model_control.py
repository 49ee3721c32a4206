"""What admins may ask of the repository, over changes that are noted and not made."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from serving.api import model_control, problems
from serving.api.middleware import Middleware
from serving.core.errors import ModelRefused
from serving.core.model_versions import LoadOptions, Role, VersionFacts
from tests.serving.fakes import FakeBackend, FakeClock
from tests.serving.gateway import Gateway, problem, slug

pytestmark = pytest.mark.anyio

LOAD = "/v2/repository/models/cells/load"
UNLOAD = "/v2/repository/models/cells/unload"
PROBLEM = {"Accept": "application/problem+json"}


class Control:
    """Changes that are noted."""

    def __init__(self) -> None:
        self.is_changing = False
        self.asked: list[Any] = []
        self.refusal: str | None = None
        self.there = [VersionFacts("cells", "1", "1-0000", "0000", Role.CURRENT, 1.0, True, 3)]

    def versions(self) -> list[VersionFacts]:
        return self.there

    async def load(self, wanted: LoadOptions) -> str:
        self.asked.append(wanted)
        if self.refusal is not None:
            raise ModelRefused(self.refusal)
        return "it serves"

    async def unload(self, *, candidate_only: bool = False) -> str:
        self.asked.append(candidate_only)
        return "it is gone"


class Side:
    """The side for admins alone."""

    def __init__(self, control: Control | str, guarded: bool = True) -> None:
        self.backend = FakeBackend(FakeClock())
        app = FastAPI()
        problems.install(app)
        app.include_router(model_control.create_router(self.backend, control, guarded=guarded))

        self.app: ASGIApp = Middleware(app, FakeClock(), leaving=lambda: False)

    async def post(self, path: str, **how: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
            return await client.post(path, **how)

    async def get(self, path: str) -> Any:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
            return (await client.get(path)).json()


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({}, LoadOptions()),
        ({"canary": 0.1}, LoadOptions(share=0.1)),
        ({"shadow": True}, LoadOptions(shadow=True)),
        ({"again": True}, LoadOptions(again=True)),
        ({"canary": 0.5, "again": True}, LoadOptions(share=0.5, again=True)),
    ],
)
async def test_what_is_wanted_is_in_the_parameters(
    parameters: dict[str, Any], wanted: LoadOptions
) -> None:
    control = Control()
    reply = await Side(control).post(LOAD, json={"parameters": parameters})
    assert (reply.status_code, reply.json()) == (200, {"message": "it serves"})
    assert control.asked == [wanted]


async def test_clients_of_triton_send_no_parameters_or_their_own() -> None:
    control = Control()
    side = Side(control)
    assert (await side.post(LOAD)).status_code == 200
    assert (await side.post(UNLOAD, content=b"{}")).status_code == 200
    triton = {"parameters": {"unload_dependents": False}}
    assert (await side.post(UNLOAD, json=triton)).status_code == 200
    assert (await side.post(UNLOAD, json={"parameters": {"candidate": True}})).status_code == 200
    assert control.asked == [LoadOptions(), False, False, True]


@pytest.mark.parametrize(
    "message",
    [
        b"nonsense",
        b"[]",
        b'{"parameters": 1}',
        b'{"parameters": {"canary": 1}}',
        b'{"parameters": {"canary": 0}}',
        b'{"parameters": {"canary": true}}',
        b'{"parameters": {"canary": NaN}}',
        b'{"parameters": {"canary": "0.5"}}',
        b'{"parameters": {"shadow": 1}}',
        b'{"parameters": {"shadow": true, "canary": 0.5}}',
        b'{"parameters": {"config": "{}"}}',
        b'{"parameters": {"file:1/model.onnx": "AAAA"}}',
        b"[" * 60_000,
    ],
)
async def test_what_is_no_such_message_is_refused(message: bytes) -> None:
    control = Control()
    reply = await Side(control).post(LOAD, content=message, headers=PROBLEM)
    assert problem(reply)["status"] == 400
    assert not control.asked


async def test_a_message_is_short_and_no_form_of_a_website() -> None:
    control = Control()
    side = Side(control)
    too_long = b" " * (model_control.MAX_BODY_BYTES + 1)
    assert (await side.post(LOAD, content=too_long)).status_code == 413
    for headers in (
        {"Content-Type": "text/plain"},
        {"Origin": "http://elsewhere"},
        {"Content-Encoding": "gzip"},
    ):
        assert (await side.post(LOAD, content=b"{}", headers=headers)).status_code == 415
    assert not control.asked


async def test_a_refusal_is_a_conflict_in_the_words_of_who_is_asked() -> None:
    control = Control()
    control.refusal = "it takes too much memory."
    side = Side(control)
    reply = await side.post(LOAD)
    assert (reply.status_code, reply.json()) == (409, {"error": "it takes too much memory."})
    assert slug(await side.post(LOAD, headers=PROBLEM)) == "model-refused"


async def test_there_is_one_model() -> None:
    control = Control()
    for path in (LOAD, UNLOAD):
        reply = await Side(control).post(path.replace("cells", "birds"))
        assert reply.status_code == 404
        assert "there is 'cells'" in reply.json()["error"]
    assert not control.asked


async def test_nobody_changes_anything_where_nobody_is_known_to_be_an_admin() -> None:
    control = Control()
    side = Side(control, guarded=False)
    for path in (LOAD, UNLOAD):
        reply = await side.post(path)
        assert reply.status_code == 403
        assert "PUNCTUAL_ADMIN_PORT" in reply.json()["error"]
    assert not control.asked


async def test_a_backend_without_versions_says_whose_they_are() -> None:
    side = Side("Ask Triton.")
    reply = await side.post(LOAD)
    assert (reply.status_code, reply.json()) == (409, {"error": "Ask Triton."})
    assert (await side.get("/v1/admin/models"))["versions"] == []
    (model,) = (await side.post("/v2/repository/index")).json()
    assert (model["name"], model["state"]) == ("cells", "READY")


async def test_versions_are_listed() -> None:
    control = Control()
    side = Side(control)
    (version,) = (await side.post("/v2/repository/index")).json()
    assert version == {"name": "cells", "version": "1", "state": "READY", "reason": ""}
    control.there.append(VersionFacts("cells", "2", "2-1111", "1111", Role.CANARY, 0.1, False, 0))
    _, canary = (await side.post("/v2/repository/index")).json()
    assert (canary["version"], canary["state"]) == ("2", "UNAVAILABLE")
    assert canary["reason"] == "canary 2-1111"
    told = await side.get("/v1/admin/models")
    assert (told["model"], told["ready"], told["changing"]) == ("cells", True, False)
    assert [(each["role"], each["share"]) for each in told["versions"]] == [
        ("current", 1.0),
        ("canary", 0.1),
    ]
    control.there.clear()
    side.backend.ready = False
    (gone,) = (await side.post("/v2/repository/index")).json()
    assert (gone["state"], gone["reason"]) == ("UNAVAILABLE", "The engine is not ready.")


@pytest.mark.parametrize("backend", ["triton", "triton-depth"])
async def test_models_of_a_triton_are_its_own_to_load(backend: str) -> None:
    async with Gateway(backend=backend).client() as client:
        reply = await client.post(LOAD, headers=PROBLEM)
    assert slug(reply) == "model-refused"
    assert f"With the backend {backend} models are Triton's" in problem(reply)["detail"]
