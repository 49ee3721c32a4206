"""Requests that are answered without the framework's layers, for paths where those cost too much.

What FastAPI puts around an endpoint (matching of routes, dependencies, stacks of contexts, handlers
of errors at three levels) takes as much of the processor as all that a detection request needs of
the event loop besides. Its routes still describe the paths, and answer their other methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.problems import respond
from serving.core.errors import ServingError

Endpoint = Callable[[Request], Awaitable[Response]]


class DirectRoutes:
    """ASGI application that answers some requests itself, and leaves all others to ``app``.

    ``endpoints`` are by method and path. What they raise is answered with a problem; what is no
    ServingError is raised as well, for the HTTP server to log.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[tuple[str, str], Endpoint]) -> None:
        self._app = app
        self._endpoints = dict(endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event stream of any type."""
        endpoint = None
        if scope["type"] == "http":
            endpoint = self._endpoints.get((scope["method"], scope["path"]))
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        request = Request(scope, receive, sending)
        try:
            response = await endpoint(request)
            await response(scope, receive, sending)
        except Exception as error:
            if not started:
                await respond(request, error)(scope, receive, send)
            if started or not isinstance(error, ServingError):
                raise
