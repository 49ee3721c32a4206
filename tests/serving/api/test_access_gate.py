"""Who is let in, to what, and how often: through the whole gateway."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.access.keys import digest_of
from serving.api.access_gate import ADMIN_PATHS, PUBLIC_PATHS
from tests.serving.fakes import JPEG
from tests.serving.gateway import HEADERS, Gateway, problem, slug

HOLDERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "other": {},
    "admin": {"admin": True},
    "slow": {"rate": 2.0},
    "narrow": {"max_requests": 1},
    "patient": {"min_budget_ms": 500},
}
"""Principals by name; the key of each is its name."""

KEYED = ("/v1/models", "/v2", "/v2/models/cells", "/v2/models/cells/config", "/nothing")


def key_file(folder: Path) -> Path:
    path = folder / "keys.json"
    entries = [
        {"name": name, "sha256": digest_of(name.encode()), **more} for name, more in HOLDERS.items()
    ]
    path.write_text(json.dumps({"principal": entries}))
    return path


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(keys_file=key_file(tmp_path))


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


async def get(gateway: Gateway, path: str, **headers: str) -> httpx.Response:
    async with gateway.client() as client:
        return await client.get(path, headers=headers)


# ---- who ----------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("path", [*KEYED, *sorted(ADMIN_PATHS)])
async def test_without_a_key_there_is_nothing_but_health(gateway: Gateway, path: str) -> None:
    for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Basic cGxhaW4="}):
        response = await get(gateway, path, **headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        if not path.startswith("/v2"):
            assert slug(response) == "unauthenticated"
    assert gateway.sample("punctual_refused_total", problem="unauthenticated") == 3


@pytest.mark.anyio
@pytest.mark.parametrize("path", sorted(PUBLIC_PATHS))
async def test_health_is_everybodys(gateway: Gateway, path: str) -> None:
    assert (await get(gateway, path)).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [key("plain"), {"X-API-Key": "plain"}])
async def test_with_a_key_there_is_detection(gateway: Gateway, headers: dict[str, str]) -> None:
    assert (await gateway.detect()).status_code == 401
    assert not gateway.backend.seen
    assert (await gateway.detect(headers=headers)).status_code == 200
    ((_, request),) = gateway.backend.seen
    assert (request.principal, request.share) == ("plain", 1.0)
    counted = "punctual_principal_requests_total"
    assert gateway.sample(counted, principal="plain", outcome="ok") == 1
    assert gateway.sample(counted, principal="other", outcome="ok") == 0


@pytest.mark.anyio
@pytest.mark.parametrize("path", sorted(ADMIN_PATHS))
async def test_metrics_and_documentation_are_for_admins(gateway: Gateway, path: str) -> None:
    refused = await get(gateway, path, **key("plain"))
    assert (refused.status_code, slug(refused)) == (403, "forbidden")
    assert (await get(gateway, path, **key("admin"))).status_code == 200


@pytest.mark.anyio
async def test_errors_of_the_protocol_are_its_own(gateway: Gateway) -> None:
    response = await get(gateway, "/v2/models/cells")
    assert set(response.json()) == {"error"}


@pytest.mark.anyio
async def test_without_a_file_everybody_may() -> None:
    gateway = Gateway()
    for path in ("/v1/models", "/metrics", "/docs"):
        assert (await get(gateway, path)).status_code == 200
    assert (await gateway.detect()).status_code == 200
    assert gateway.sample("punctual_principal_requests_total", principal="address", outcome="ok")


@pytest.mark.anyio
@pytest.mark.parametrize(("setting", "count"), [("address", 2), ("everybody", 1)])
async def test_without_a_file_addresses_are_principals_or_nobody(setting: str, count: int) -> None:
    gateway = Gateway(principals=setting)
    for host in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
        transport = httpx.ASGITransport(gateway.app, client=(host, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            await client.post("/v1/detect", content=JPEG, headers=HEADERS)
    assert len({request.principal for _, request in gateway.backend.seen}) == count
    assert b"192.0.2" not in gateway.metrics.exposition("")[0], "addresses are no labels"


# ---- which port ---------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("port", [8000, 9000])
async def test_with_an_admin_port_each_has_its_own(tmp_path: Path, port: int) -> None:
    gateway = Gateway(admin_port=9000)
    transport = httpx.ASGITransport(gateway.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url=f"http://gateway:{port}", headers=HEADERS
    ) as client:
        for path in PUBLIC_PATHS:
            assert (await client.get(path)).status_code == 200
        for path in ADMIN_PATHS:
            assert (await client.get(path)).status_code == (200 if port == 9000 else 404)
        for path in ("/v1/models", "/v2"):
            assert (await client.get(path)).status_code == (404 if port == 9000 else 200)
        answer = await client.post("/v1/detect", content=JPEG)
        assert answer.status_code == (404 if port == 9000 else 200)


# ---- how often ----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_rate_is_kept_and_says_when_to_come_again(gateway: Gateway) -> None:
    statuses = [(await get(gateway, "/v1/models", **key("slow"))).status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    refused = await gateway.detect(headers=key("slow"))
    assert (refused.status_code, slug(refused)) == (429, "too-many-requests")
    assert problem(refused)["retry_after_ms"] == 500.0
    assert refused.headers["retry-after"] == "1"
    assert (await gateway.detect(headers=key("plain"))).status_code == 200
    gateway.clock.now += 0.5
    assert (await gateway.detect(headers=key("slow"))).status_code == 200
    assert gateway.sample("punctual_refused_total", problem="too-many-requests") == 3


@pytest.mark.anyio
async def test_so_many_at_once(gateway: Gateway) -> None:
    leave = asyncio.Event()

    async def until_told(image: Any, request: Any) -> Any:
        await leave.wait()
        return await gateway.backend.answer(image, request)

    gateway.backend.behaviour = until_told
    first = asyncio.create_task(gateway.detect(headers=key("narrow")))
    while not gateway.backend.seen:
        await asyncio.sleep(0.001)
    refused = await gateway.detect(headers=key("narrow"))
    assert (refused.status_code, slug(refused)) == (429, "too-many-requests")
    assert refused.headers["retry-after"]
    counted = "punctual_principal_requests_total"
    assert gateway.sample(counted, principal="narrow", outcome="limited") == 1
    leave.set()
    assert (await first).status_code == 200
    assert (await gateway.detect(headers=key("narrow"))).status_code == 200


@pytest.mark.anyio
async def test_a_budget_below_those_that_a_key_may_state(gateway: Gateway) -> None:
    for params in ({"deadline_ms": "499"}, {"deadline_ms": "20"}):
        refused = await gateway.detect(params=params, headers=key("patient"))
        assert (refused.status_code, slug(refused)) == (422, "budget-infeasible")
        assert problem(refused)["min_budget_ms"] == 500.0
    answer = await gateway.detect(params={"deadline_ms": "500"}, headers=key("patient"))
    assert answer.status_code == 200
    assert (await gateway.detect(params={"deadline_ms": "499"}, headers=key("plain"))).is_success


# ---- what it costs ------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_who_reads_metrics_all_the_time_gets_them_a_little_late() -> None:
    gateway = Gateway()
    encode_s = 0.02
    collect = gateway.registry.collect

    def slowly() -> Any:
        gateway.clock.now += encode_s
        return collect()

    gateway.registry.collect = slowly  # type: ignore[method-assign]
    started_s, count = gateway.clock.now, 0
    while gateway.clock.now < started_s + 100.0:
        gateway.metrics.exposition("")
        gateway.clock.now += 0.001
        count += 1
    spent_s = gateway.clock.now - started_s - count * 0.001
    assert spent_s <= 0.1 * 100.0 + 1.0 + encode_s
