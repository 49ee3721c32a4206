from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from serving.api import problems
from serving.api.middleware import Middleware
from serving.api.problems import PROBLEMS
from serving.core.errors import (
    BackendUnavailable,
    BudgetInfeasible,
    Overloaded,
    ServingError,
    ShedReason,
)
from tests.serving.gateway import problem, slug

HTTP_ONLY = {"not-found", "method-not-allowed"}


def tree(root: type[ServingError]) -> set[type[ServingError]]:
    return {root}.union(*map(tree, root.__subclasses__()))


def make(kind: type[ServingError]) -> ServingError:
    if kind is BudgetInfeasible:
        return BudgetInfeasible("Too small.", 0.0405)
    if kind is Overloaded:
        return Overloaded("Too much.", ShedReason.REJECTED_OVERLOAD, 2.5)
    return kind("A sentence.")


async def get(error: Exception) -> httpx.Response:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    async def fail(number: int = 0) -> None:
        raise error

    transport = httpx.ASGITransport(Middleware(app, lambda: 0.0), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return await client.get("/")


def test_the_table_is_the_error_tree() -> None:
    assert {kind.slug for kind in tree(ServingError)} | HTTP_ONLY == set(PROBLEMS)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", sorted(tree(ServingError), key=str))
async def test_every_error_becomes_its_problem(kind: type[ServingError]) -> None:
    response = await get(make(kind))
    assert slug(response) == kind.slug
    assert response.status_code == PROBLEMS[kind.slug].status >= 400
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.anyio
async def test_extensions() -> None:
    assert problem(await get(make(BudgetInfeasible)))["min_budget_ms"] == 40.5
    overloaded = await get(make(Overloaded))
    assert problem(overloaded)["reason"] == "rejected-overload"
    assert problem(overloaded)["retry_after_ms"] == 2500
    assert overloaded.headers["retry-after"] == "3"
    unavailable = await get(BackendUnavailable("Not yet."))
    assert unavailable.headers["retry-after"] == "1"


@pytest.mark.anyio
async def test_retry_after_is_never_zero() -> None:
    shed = Overloaded("Briefly.", ShedReason.REJECTED_SATURATED, 0.002)
    assert (await get(shed)).headers["retry-after"] == "1"


@pytest.mark.anyio
async def test_defects_tell_nothing() -> None:
    response = await get(RuntimeError("secret"))
    assert slug(response) == "internal"
    assert "secret" not in response.text


@pytest.mark.anyio
async def test_what_http_adds() -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/number")
    async def number(value: int) -> int:
        return value

    transport = httpx.ASGITransport(Middleware(app, lambda: 0.0))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert slug(await client.get("/nowhere")) == "not-found"
        refused = await client.post("/number")
        assert slug(refused) == "method-not-allowed"
        assert refused.headers["allow"] == "GET"
        assert slug(await client.get("/number", params={"value": "x"})) == "invalid-parameter"
