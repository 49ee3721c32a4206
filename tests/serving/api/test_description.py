from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import pytest

from serving.api.description import write_page
from tests.serving.gateway import Gateway

pytestmark = pytest.mark.anyio


class Elements(HTMLParser):
    """What a browser would find in a page: its elements' ids and links, all closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str | None] = set()
        self.links: list[str] = []
        self.names: set[str] = set()
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names.add(tag)
        self.ids.add(given.get("id"))
        self.links += [value for name in ("href", "src") if (value := given.get(name))]
        if tag not in ("meta", "link"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


async def test_every_route_is_on_the_page(gateway: Gateway) -> None:
    async with gateway.client() as client:
        openapi = (await client.get("/openapi.json")).json()
        page = (await client.get("/docs")).text
    for path, methods in openapi["paths"].items():
        for method in methods:
            assert f"<b>{method.upper()}</b> {path}</h2>" in page
    anchors = re.findall(r"<li><a href='#([^']+)'>", page)
    assert len(set(anchors)) == sum(map(len, openapi["paths"].values())), "one for each route"
    for text in ("X-Deadline-Ms (header)", "DetectionResponse", "multipart/form-data", "503"):
        assert text in page


async def test_the_page_needs_nothing_from_elsewhere(gateway: Gateway) -> None:
    async with gateway.client() as client:
        response = await client.get("/docs")
        found = Elements(response.text)
        assert "script" not in found.names
        assert "script-src 'none'" in response.headers["content-security-policy"]
        inside = [link[1:] for link in found.links if link.startswith("#")]
        assert set(inside) <= found.ids
        (other,) = [link for link in found.links if not link.startswith(("#", "data:"))]
        assert not re.match("[a-z]+:|/", other)  # it stays below the prefix that a proxy adds
        assert (await client.get(urljoin("/docs", other))).status_code == 200


def test_words_of_others_are_no_markup() -> None:
    bad = "<script>alert('x')</script>"
    operation: dict[str, Any] = {
        "summary": bad,
        "description": bad,
        "parameters": [{"name": bad, "in": "query", "schema": {"enum": [bad]}}],
        "responses": {bad: {"description": bad, "content": {bad: {"schema": {"$ref": bad}}}}},
    }
    page = write_page(
        {
            "info": {"title": bad, "version": bad, "summary": bad},
            "paths": {f"/{bad}": {"get": operation}},
            "components": {"schemas": {bad: {"description": bad}}},
        }
    )
    assert "script" not in Elements(page).names
