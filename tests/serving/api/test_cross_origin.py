"""Pages of other origins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.access.keys import digest_of
from tests.serving.fakes import JPEG
from tests.serving.gateway import Gateway

pytestmark = pytest.mark.anyio

PAGE = "https://app.example.com"
ASKS = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type, x-deadline-ms",
}
PATHS = ("/v1/detect", "/v1/vision/detection", "/v2/models/cells/infer")


async def test_closed_by_default(gateway: Gateway) -> None:
    async with gateway.client() as client:
        for path in PATHS:
            assert not _allowed(await client.options(path, headers=ASKS))
    assert not _allowed(await gateway.detect(headers={"Origin": PAGE}))


async def test_listed_origins(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    entry = {"name": "page", "sha256": digest_of(b"secret")}
    keys.write_text(json.dumps({"principal": [entry]}))
    gateway = Gateway(cors_origins=f"{PAGE}, http://localhost:3000", keys_file=keys)
    async with gateway.client() as client:
        for path in PATHS:
            reply = await client.options(path, headers=ASKS)  # which has no key
            assert _allowed(reply) == PAGE
            assert "x-deadline-ms" in reply.headers["access-control-allow-headers"].lower()
            other = await client.options(path, headers=ASKS | {"Origin": "https://evil.example"})
            assert not _allowed(other)
    answered = await gateway.detect(
        JPEG, headers={"Origin": PAGE, "Authorization": "Bearer secret"}
    )
    assert (answered.status_code, _allowed(answered)) == (200, PAGE)
    seen = answered.headers["access-control-expose-headers"].lower()
    assert "server-timing" in seen
    assert "x-request-id" in seen
    refused = await gateway.detect(JPEG, headers={"Origin": PAGE})
    assert (refused.status_code, _allowed(refused)) == (401, PAGE)


async def test_any_origin() -> None:
    gateway = Gateway(cors_origins="*")
    answered = await gateway.detect(headers={"Origin": "https://anywhere.example"})
    assert _allowed(answered) == "*"
    assert "access-control-allow-credentials" not in answered.headers


@pytest.mark.parametrize(
    "stated", ["app.example.com", "https://a.example/path", "https://", "null"]
)
def test_what_is_no_origin(stated: str) -> None:
    with pytest.raises(ValueError, match="no origin"):
        Gateway(cors_origins=stated)


def _allowed(reply) -> str | None:
    return reply.headers.get("access-control-allow-origin")
