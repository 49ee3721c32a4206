"""Description of the server's routes: as OpenAPI, for programs, and as a page, for people.

The page is made here, so that it needs no script and nothing from elsewhere. Its links are
relative: it works behind any prefix that a proxy may put in front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from html import escape
from typing import Any

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from serving.api.pages import Page

OPENAPI_PATH = "/openapi.json"
DOCS_PATH = "/docs"

_FRAMEWORKS = ("HTTPValidationError", "ValidationError")
"""Schemas of FastAPI's own problems; the first is what its replies are."""

Schema = Mapping[str, Any]


def create_router(describe: Callable[[], Schema]) -> APIRouter:
    """Return the routes that describe all routes, as ``describe`` does in OpenAPI's terms.

    It is called once, when somebody asks.
    """
    router = APIRouter(include_in_schema=False)

    @cache
    def described() -> Schema:
        return without_frameworks_problems(describe())

    @cache
    def openapi() -> bytes:
        return json.dumps(described(), separators=(",", ":")).encode()

    @cache
    def page() -> Page:
        return Page(write_page(described()))

    @router.get(OPENAPI_PATH)
    async def as_openapi() -> Response:
        return Response(openapi(), media_type="application/json")

    @router.get(DOCS_PATH)
    async def as_page() -> HTMLResponse:
        return page().response()

    return router


def without_frameworks_problems(openapi: Schema) -> Schema:
    """Return a description without the replies that FastAPI adds to every route with parameters.

    No route sends them: what they would say is said by problems.
    """
    return {
        **openapi,
        "paths": {
            path: {method: _without_422(operation) for method, operation in methods.items()}
            for path, methods in openapi["paths"].items()
        },
        "components": {
            **openapi.get("components", {}),
            "schemas": {
                name: schema
                for name, schema in openapi.get("components", {}).get("schemas", {}).items()
                if name not in _FRAMEWORKS
            },
        },
    }


def _without_422(operation: Schema) -> Schema:
    responses = {
        status: reply
        for status, reply in operation["responses"].items()
        if _FRAMEWORKS[0] not in json.dumps(reply)
    }
    return {**operation, "responses": responses}


# ---- the page -----------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#dbe1e3, #313a3e);
  --quiet: light-dark(#5b6a70, #93a3a9); --accent: light-dark(#0a7f78, #4cc9be); }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; max-width: 62rem; margin: 0 auto;
  padding: 1rem 1.5rem 3rem; }
a { color: var(--accent); }
section { border-top: 1px solid var(--line); padding-top: .5rem; margin-top: 1.5rem; }
h2 { font-size: 1.05rem; overflow-wrap: anywhere; }
h2 b { color: var(--accent); }
h3 { font-size: .85rem; color: var(--quiet); margin: 1rem 0 .2rem; }
table { border-collapse: collapse; width: 100%; }
td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; vertical-align: top; }
td:first-child { white-space: nowrap; }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; padding: .6rem;
  font-size: .85rem; }
p { margin: .4rem 0; white-space: pre-line; }
"""


def write_page(openapi: Schema) -> str:
    """Return an OpenAPI document as HTML: every operation, and every schema that they refer to."""
    info = openapi["info"]
    operations = [
        (method.upper(), path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    contents = "".join(
        f"<li><a href='#{_anchor(method, path)}'>{method} {escape(path)}</a> "
        f"{_text(operation.get('summary', ''))}</li>"
        for method, path, operation in operations
    )
    sections = "".join(_operation(*each) for each in operations)
    schemas = "".join(
        f"<section id='{escape(name)}'><h2>{escape(name)}</h2>{_json(schema)}</section>"
        for name, schema in openapi.get("components", {}).get("schemas", {}).items()
    )
    title = escape(info["title"])
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<link rel='icon' href='data:,'>"  # or browsers would ask for one
        f"<title>{title}: routes</title><style>{_STYLE}</style></head><body>"
        f"<h1>{title} {escape(info['version'])}</h1><p>{_text(info.get('summary', ''))} "
        f"The same for programs: <a href='{OPENAPI_PATH.lstrip('/')}'>openapi.json</a>.</p>"
        f"<ul>{contents}</ul>{sections}{schemas}</body></html>"
    )


def _operation(method: str, path: str, operation: Schema) -> str:
    parts = [f"<p>{_text(operation.get('description', operation.get('summary', '')))}</p>"]
    parameters = [
        (f"{each['name']} ({each['in']})", each.get("description", ""), each.get("schema"))
        for each in operation.get("parameters", ())
    ]
    parts += _table("Parameters", parameters)
    parts += _table("Body", _content(operation.get("requestBody", {})))
    for status, reply in operation.get("responses", {}).items():
        rows = [("", reply.get("description", ""), None), *_content(reply)]
        parts += _table(f"Status {status}", rows)
    return (
        f"<section id='{_anchor(method, path)}'><h2><b>{method}</b> {escape(path)}</h2>"
        f"{''.join(parts)}</section>"
    )


def _content(message: Schema) -> list[tuple[str, str, Schema | None]]:
    return [
        (media_type, "", described.get("schema"))
        for media_type, described in message.get("content", {}).items()
    ]


def _table(title: str, rows: list[tuple[str, str, Schema | None]]) -> Iterator[str]:
    """Yield a table of names, what is said of them, and what they look like; nothing of none."""
    if rows:
        yield f"<h3>{escape(title)}</h3><table>"
        for name, text, schema in rows:
            yield f"<tr><td><code>{escape(name)}</code></td>"
            yield f"<td>{_text(text)} {_shape(schema)}</td></tr>"
        yield "</table>"


def _shape(schema: Schema | None) -> str:
    """Return what a value looks like, in a few words, or where that is said."""
    if not schema:
        return ""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "title" in schema and "properties" in schema:
        return f"<code>{escape(schema['title'])}</code>"
    plain = {name: value for name, value in schema.items() if name not in ("title", "description")}
    return f"<code>{escape(json.dumps(plain))}</code>"


def _json(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"


def _text(text: str) -> str:
    """Return words as HTML, what is in backticks as code."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", escape(text))


def _anchor(method: str, path: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{method} {path}".lower()).strip("-")
