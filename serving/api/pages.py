"""Pages for people: HTML in one piece, that needs nothing from anywhere else and may not get it."""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.responses import HTMLResponse

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)

_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; "
    "style-src 'unsafe-inline'; script-src {scripts}; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Page:
    """One page, whose scripts are those that are in it: a browser runs no others."""

    def __init__(self, html: str) -> None:
        self._html = html
        digests = (hashlib.sha256(text.encode()).digest() for text in _SCRIPT.findall(html))
        allowed = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
        self._headers = {
            "Content-Security-Policy": _POLICY.format(scripts=" ".join(allowed) or "'none'"),
            "Referrer-Policy": "no-referrer",
        }

    def response(self) -> HTMLResponse:
        """Return the reply that shows it."""
        return HTMLResponse(self._html, headers=self._headers)
