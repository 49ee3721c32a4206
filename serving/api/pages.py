"""Pages for people: HTML that needs nothing from anywhere else and may not get it."""

from __future__ import annotations

from starlette.responses import HTMLResponse

_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; "
    "style-src {styles}; script-src {scripts}; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_OWN = "'self'"


class Page:
    """One page. A browser runs the scripts of this server's files and none that is in the page.

    With ``own_files`` its styles are such files, too; without them they are in the page, which then
    has no script at all.
    """

    def __init__(self, html: str, *, own_files: bool = False) -> None:
        self._html = html
        styles, scripts = (_OWN, _OWN) if own_files else ("'unsafe-inline'", "'none'")
        self._headers = {
            "Content-Security-Policy": _POLICY.format(styles=styles, scripts=scripts),
            "Referrer-Policy": "no-referrer",
        }

    def response(self) -> HTMLResponse:
        """Return the reply that shows it."""
        return HTMLResponse(self._html, headers=self._headers)
