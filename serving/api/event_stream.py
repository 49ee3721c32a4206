"""Streaming replies: one event for each exit as it is reached, and one that says it is the last.

    text/event-stream      event: detections    application/x-ndjson    {"event":"detections", ...}
                           id: 1                                        {"event":"done", ...}
                           data: {...}

                           event: done
                           data: {...}

The status is that of the first event, so an error after it is an event as well. Each is handed to
the transport when it is written; none waits for another.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DETECTIONS = "detections"
DONE = "done"
ERROR = "error"

Encode = Callable[[str, int | None, bytes], bytes]
"""Encoder of an event: its name, its id if any, and a JSON object on one line, not empty."""


def _server_sent_event(event: str, number: int | None, data: bytes) -> bytes:
    """Return a server-sent event.

    See https://html.spec.whatwg.org/multipage/server-sent-events.html.
    """
    head = f"event: {event}\n" + ("" if number is None else f"id: {number}\n")
    return b"%bdata: %b\n\n" % (head.encode(), data)


def _line(event: str, _: int | None, data: bytes) -> bytes:
    """Return one object on a line, the event its first member.

    See https://github.com/ndjson/ndjson-spec.
    """
    return b'{"event":"%b",%b\n' % (event.encode(), data[1:])


STREAMS: Mapping[str, Encode] = {
    "text/event-stream": _server_sent_event,
    "application/x-ndjson": _line,
}
"""Encoders of events by media type."""


class EventStream:
    """One streaming reply of ``media_type``, which it writes.

    It begins with its first answer, and sends nothing before that.
    """

    def __init__(self, media_type: str, send: Send) -> None:
        self.started = False
        self.num_answers = 0
        """Number of answers that have been sent."""
        self._media_type = media_type
        self._encode = STREAMS[media_type]
        self._send = send

    async def answer(self, response: Response) -> None:
        """Send as an event what ``response`` would say by itself; its id is its number, from 1.

        Its headers are the stream's, if it is the first.
        """
        if not self.started:
            self.started = True
            await self._start(response)
        await self._write(DETECTIONS, self.num_answers + 1, bytes(response.body), more=True)
        self.num_answers += 1

    async def end(self, event: str, details: Mapping[str, Any]) -> None:
        """Send the last event."""
        data = json.dumps(details, separators=(",", ":")).encode()
        await self._write(event, None, data, more=False)

    async def _start(self, response: Response) -> None:
        headers = MutableHeaders(raw=list(response.raw_headers))
        del headers["content-length"]
        headers["content-type"] = self._media_type
        headers["x-accel-buffering"] = "no"  # of proxies, which might wait for more
        await self._send({"type": "http.response.start", "status": 200, "headers": headers.raw})

    async def _write(self, event: str, number: int | None, data: bytes, more: bool) -> None:
        body = self._encode(event, number, data)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


class Streamed(Response):
    """One response that ``write`` sends, all of it."""

    def __init__(self, write: Callable[[Send], Awaitable[None]]) -> None:
        super().__init__()
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response.

        Raises what ``write`` does; before it has begun, that is answered as ever.
        """
        await self._write(send)
