"""One call of gRPC as what the gateway knows: a request with headers, and one body."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import unquote

from grpc.aio import EOF
from starlette.types import Message

from serving.access.addresses import parse_address
from serving.api.connection import Departure, while_connected
from serving.api.middleware import identity_of
from serving.core.errors import RequestCancelled
from serving.core.ports import Clock
from serving.grpc_api.sockets import Peer

_PEER = re.compile(r"ipv[46]:(?P<host>.*):(?P<port>[0-9]+)")
_MICROSECONDS, _MILLISECONDS = 1e6, 1e3
_MAX_DIGITS = 10**8

Headers = Sequence[tuple[bytes, bytes]]


def scope_of(context: Any, path: str, clock: Clock) -> dict[str, Any]:
    """Return the scope of an HTTP request that says what a call does: metadata as headers.

    ``context`` is gRPC's ``ServicerContext``.

    The deadline of the call, which gRPC takes out of them, is put back.
    """
    headers = [
        (name.lower().encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in context.invocation_metadata() or ()
    ]
    left_s = context.time_remaining()
    if left_s is not None:
        headers.append((b"grpc-timeout", _timeout(left_s)))
    echoed = identity_of(headers)
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": headers,
        "client": peer_of(context),
        "state": {"arrival_s": clock(), "request_id": echoed[0][1].decode("ascii")},
    }


def again(scope: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """Return the scope of a further message of a call, which arrives now.

    The call's deadline is that of the stream of messages, and not of each.
    """
    headers = [header for header in scope["headers"] if header[0] != b"grpc-timeout"]
    state = {"arrival_s": clock(), "request_id": uuid.uuid4().hex}
    return {**scope, "headers": headers, "state": state}


def _timeout(seconds: float) -> bytes:
    """Return a time as gRPC has it on the wire, at least a microsecond."""
    microseconds = max(1, round(seconds * _MICROSECONDS))
    if microseconds < _MAX_DIGITS:
        return b"%du" % microseconds
    return b"%dm" % min(_MAX_DIGITS - 1, round(seconds * _MILLISECONDS))


def peer_of(context: Any) -> Peer | None:
    """Return the other end of a call's connection; None if it has no address, as on a Unix
    socket."""
    matched = _PEER.fullmatch(unquote(context.peer()))
    address = None if matched is None else parse_address(matched["host"].strip("[]"))
    return None if matched is None or address is None else (str(address), int(matched["port"]))


async def next_message(context: Any) -> bytes | None:
    """Return the next message of a call, None after the last.

    Nobody else keeps it: iterators of gRPC do, until there is another or a collection finds them.
    """
    message = await context.read()
    return None if message is EOF else bytes(message)


class Body:
    """The one message of a call, as the body of an HTTP request, and its client.

    ``read`` returns the message, and nothing if there is none.
    """

    def __init__(self, read: Callable[[], Coroutine[Any, Any, bytes]]) -> None:
        self._read = read
        self.departure = Departure()

    async def receive(self) -> Message:
        """Return the message, or that the client has left."""
        try:
            body = await while_connected(self.departure, self._read())
        except RequestCancelled:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body}
