"""The page's files: what they are, and that a browser keeps what is still the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.api.web_page import FILES_PREFIX
from tests.serving.gateway import Gateway, slug

UI = Path(__file__).parents[3] / "serving/ui"
FILES = sorted(each.name for each in UI.iterdir() if each.suffix in (".css", ".js", ".jpg"))

pytestmark = pytest.mark.anyio


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


async def test_every_file_is_served_for_what_it_is(gateway: Gateway) -> None:
    kinds = {".css": "text/css", ".js": "text/javascript", ".jpg": "image/jpeg"}
    async with gateway.client() as client:
        for name in FILES:
            response = await client.get(FILES_PREFIX + name)
            assert response.content == (UI / name).read_bytes()
            assert response.headers["content-type"].startswith(kinds[Path(name).suffix])
            assert response.headers["x-content-type-options"] == "nosniff"


async def test_what_is_still_the_same_is_not_sent_again(gateway: Gateway) -> None:
    async with gateway.client() as client:
        first = await client.get("/ui/main.js")
        assert first.headers["cache-control"] == "no-cache"
        again = await client.get("/ui/main.js", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = await client.get("/ui/main.js", headers={"If-None-Match": '"other"'})
        assert other.status_code == 200


@pytest.mark.parametrize(
    "name", ["", "nothing.js", "index.html", "LICENSE", "..%2fapp.py", "a/b.js"]
)
async def test_nothing_else_is_served(gateway: Gateway, name: str) -> None:
    async with gateway.client() as client:
        assert slug(await client.get(FILES_PREFIX + name)) == "not-found"


async def test_all_that_is_referred_to_is_there_and_nothing_else(gateway: Gateway) -> None:
    async with gateway.client() as client:
        page = (await client.get("/")).text
    referred = set(re.findall(r'"ui/([^"]+)"', page))
    for name in FILES:
        if name.endswith(".js"):
            referred.update(re.findall(r'from "\./([^"]+)"', (UI / name).read_text()))
    assert referred == set(FILES)


async def test_a_browser_runs_nothing_but_these_files(gateway: Gateway) -> None:
    async with gateway.client() as client:
        page, described = await client.get("/"), await client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "style-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script>|<style>| style=| on\w+=", page.text)
    assert "script-src 'none'" in described.headers["content-security-policy"]


async def test_the_pictures_are_free_and_say_so() -> None:
    told = (UI / "LICENSE").read_text()
    for name in FILES:
        if name.endswith(".jpg"):
            assert f"{name}: " in told
