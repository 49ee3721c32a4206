"""Changes of the model while requests are served: the repository extension of ``/v2``, for admins.

    POST /v2/repository/index                  the versions that are here
    POST /v2/repository/models/NAME/load       what lies in the repository, as a new version
    POST /v2/repository/models/NAME/unload
    GET  /v1/admin/models                      the versions that are here, and what each is for

They are answered once it is done, or it is known why not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from serving.api.body import check_head
from serving.api.described_problems import OF_ANY_ROUTE, problem_responses
from serving.api.numbers import shown
from serving.api.problems import PROTOCOL_PREFIX, UnknownModel
from serving.api.schemas import ProtocolError
from serving.core.errors import (
    BodyTimeout,
    Forbidden,
    InvalidParameter,
    InvalidRequest,
    ModelRefused,
    PayloadTooLarge,
    UnsupportedImage,
)
from serving.core.model_versions import MIN_SHARE, LoadOptions, VersionFacts
from serving.core.ports import Backend

MAX_BODY_BYTES = 2**16
"""Most bytes of a message to the repository."""
BODY_WITHIN_S = 10.0
"""Seconds that it may take to arrive."""

READY, UNAVAILABLE = "READY", "UNAVAILABLE"
"""States of models, in the words of the protocol."""

CANARY, SHADOW, AGAIN, CANDIDATE = "canary", "shadow", "again", "candidate"
_IGNORED = ("unload_dependents",)
"""Parameters that Triton's clients send and that mean nothing here: no model depends on another."""


class Message(BaseModel):
    """The reply to a change that was made."""

    message: str = Field(description="A sentence that says what came of it.")


class ModelControl(Protocol):
    """Changes of the model; see ``backends.model_changes``."""

    @property
    def is_changing(self) -> bool: ...

    def versions(self) -> list[VersionFacts]: ...

    async def load(self, wanted: LoadOptions) -> str: ...

    async def unload(self, *, candidate_only: bool = False) -> str: ...


def create_router(backend: Backend, control: ModelControl | str, *, guarded: bool) -> APIRouter:
    """Return the router of the repository.

    ``control`` changes the model of ``backend``, or is a sentence that says why nobody can here.
    ``guarded`` is whether admins are told from others, by keys or by a port: where they are not,
    nobody may change anything.
    """
    router = APIRouter(tags=["Model repository"])
    protocol = APIRouter(
        prefix=PROTOCOL_PREFIX, responses=problem_responses(OF_ANY_ROUTE, ProtocolError)
    )
    of_change: dict[int | str, dict[str, Any]] = {
        200: {"model": Message},
        **problem_responses({404, 409, 413, 415}, ProtocolError),
    }

    name_here = backend.family.name

    def check(name: str) -> ModelControl:
        if name != backend.family.name:
            raise UnknownModel(
                f"There is no model {shown(name)}; there is {backend.family.name!r}. Another model "
                "needs another server."
            )
        if isinstance(control, str):
            raise ModelRefused(control)
        if not guarded:
            raise Forbidden(
                "Nobody is known to be an admin here: models are changed where there is a key file "
                "(PUNCTUAL_KEYS_FILE) or a port for admins (PUNCTUAL_ADMIN_PORT)."
            )
        return control

    @protocol.post("/repository/index", summary="The versions of the model here")
    async def index() -> list[dict[str, str]]:
        state = READY if backend.ready else UNAVAILABLE
        facts = [] if isinstance(control, str) else control.versions()
        if not facts:
            reason = "" if backend.ready else str(backend.absence)
            return [_indexed(backend.family.name, backend.family.version, state, reason)]
        return [
            _indexed(
                each.name,
                each.version,
                READY if each.ready else UNAVAILABLE,
                f"{each.role} {each.release}" if len(facts) > 1 else "",
            )
            for each in facts
        ]

    @router.get(
        "/v1/admin/models",
        summary="The versions of the model here, and their roles",
        responses=problem_responses(OF_ANY_ROUTE),
    )
    async def models() -> dict[str, Any]:
        changes = None if isinstance(control, str) else control
        return {
            "model": backend.family.name,
            "ready": backend.ready,
            "changing": changes is not None and changes.is_changing,
            "versions": [] if changes is None else [asdict(each) for each in changes.versions()],
        }

    @protocol.post(
        "/repository/models/{model}/load",
        summary="Load what lies in the repository as a new version",
        description=__doc__,
        response_model=None,
        responses=of_change,
        openapi_extra=_described_body(
            {
                CANARY: {"type": "number", "minimum": MIN_SHARE, "exclusiveMaximum": 1},
                SHADOW: {"type": "boolean"},
                AGAIN: {"type": "boolean"},
            }
        ),
    )
    async def load(request: Request, model: str = Path(examples=[name_here])) -> Response:
        changing = check(model)
        wanted = _wanted(await _parameters(request))
        return _done(await changing.load(wanted))

    @protocol.post(
        "/repository/models/{model}/unload",
        summary="Let a version go",
        response_model=None,
        responses=of_change,
        openapi_extra=_described_body({CANDIDATE: {"type": "boolean"}}),
    )
    async def unload(request: Request, model: str = Path(examples=[name_here])) -> Response:
        changing = check(model)
        given = await _parameters(request)
        candidate_only = _boolean(given, CANDIDATE)
        _refuse_others(given, (CANDIDATE,))
        return _done(await changing.unload(candidate_only=candidate_only))

    router.include_router(protocol)
    return router


def _described_body(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenAPI's description of a message with these parameters, which may be left out."""
    properties = {**parameters, **{name: {"type": "boolean"} for name in _IGNORED}}
    given = {"type": "object", "properties": properties, "additionalProperties": False}
    message = {"type": "object", "properties": {"parameters": given}}
    return {"requestBody": {"content": {"application/json": {"schema": message}}}}


def _indexed(name: str, version: str, state: str, reason: str) -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "reason": reason}


def _done(sentence: str) -> Response:
    """Return the reply to a change: JSON, of which Triton's clients take no notice."""
    return Response(
        json.dumps({"message": sentence}),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


async def _parameters(request: Request) -> dict[str, Any]:
    """Return the parameters of a message. Raises InvalidRequest for what is none."""
    # A page of any website could have a browser send what is said to be anything else.
    stated = request.headers.get("content-type", "")
    if stated.partition(";")[0].strip().lower() not in ("", "application/json"):
        raise UnsupportedImage(f"Content-Type must be application/json; it is {shown(stated)}.")
    if not stated and "origin" in request.headers:
        raise UnsupportedImage("Content-Type must be application/json; none is stated.")
    check_head(request.headers, MAX_BODY_BYTES)
    body = b""
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise PayloadTooLarge(f"A message has at most {MAX_BODY_BYTES} bytes.")
    except TimeoutError as error:
        raise BodyTimeout(f"The body had not arrived after {BODY_WITHIN_S:g} s.") from error
    try:
        message = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The message is not JSON: {error}.") from error
    given = message.get("parameters", {}) if isinstance(message, dict) else None
    if not isinstance(given, dict):
        raise InvalidRequest('A message is a JSON object with "parameters", another one.')
    return {name: value for name, value in given.items() if name not in _IGNORED}


def _wanted(given: Mapping[str, Any]) -> LoadOptions:
    """Return what is wanted of a version. Raises InvalidParameter."""
    _refuse_others(given, (CANARY, SHADOW, AGAIN))
    share = given.get(CANARY)
    # type(), since a bool is an int to isinstance().
    if share is not None and not (type(share) in (int, float) and MIN_SHARE <= share < 1.0):
        raise InvalidParameter(
            f"{CANARY} must be a share of the requests, from {MIN_SHARE:g} up and below 1; it is "
            f"{shown(share)}."
        )
    shadow = _boolean(given, SHADOW)
    if shadow and share is not None:
        raise InvalidParameter(f"A version is either a {CANARY} or a {SHADOW}.")
    return LoadOptions(None if share is None else float(share), shadow, _boolean(given, AGAIN))


def _boolean(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise InvalidParameter(f"{name} must be true or false; it is {shown(value)}.")
    return value


def _refuse_others(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise InvalidParameter for parameters of other names, such as files of a model."""
    for name in given:
        if name not in known:
            raise InvalidParameter(
                f"There is no parameter {shown(name)}; there are {', '.join(known)}. What is "
                "loaded lies in the server's repository."
            )
