"""The page to try the server by hand, and the files that it is made of.

They are read once, into memory: a browser that asks for them costs no more than a probe does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import PurePath

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from serving.api.pages import Page

PAGE_PATH = "/"
FILES_PREFIX = "/ui/"
"""Prefix of the paths of its scripts, styles and pictures."""

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    tag: str

    def response(self, request: Request) -> Response:
        # A browser asks each time whether it is still the same: another version has other files.
        headers = {"Cache-Control": "no-cache", "ETag": self.tag}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers={**headers, "Content-Type": self.media_type})


def create_router(folder: Traversable) -> APIRouter:
    """Return the routes of the page ``index.html`` in ``folder`` and of the files beside it."""
    router = APIRouter(include_in_schema=False)
    page = Page(folder.joinpath("index.html").read_text(encoding="utf-8"), own_files=True)
    files = dict(_files(folder))

    @router.get(PAGE_PATH)
    async def index() -> HTMLResponse:
        return page.response()

    @router.get(FILES_PREFIX + "{name}")
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].response(request)

    return router


def _files(folder: Traversable) -> list[tuple[str, _File]]:
    """Return the files of the kinds that a page is made of, by name."""
    found = []
    for each in folder.iterdir():
        media_type = _MEDIA_TYPES.get(PurePath(each.name).suffix)
        if media_type is not None:
            content = each.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found.append((each.name, _File(content, media_type, tag)))
    return found
