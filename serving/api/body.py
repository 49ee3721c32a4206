"""Reading of a request's body, with a bound on bytes and on patience."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import Receive

from serving.api.numbers import integer, shown
from serving.core.errors import (
    Overloaded,
    PayloadTooLarge,
    RequestCancelled,
    ShedReason,
    UnsupportedImage,
)

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")

# ---- room for bodies ----------------------------------------------------------------------------


class BodyRoom:
    """Room for the bodies of all requests that are in the server, in bytes.

    Where it does not do, the largest of the bodies that are still arriving gives way. So whoever
    sends much is refused, and a body of ordinary size finds room. Not thread-safe: the event loop
    owns it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._arriving: set[BodyPlace] = set()

    def place(self) -> BodyPlace:
        """Return the place of a request that has sent nothing of its body."""
        return BodyPlace(self)

    def take(self, place: BodyPlace, num_bytes: int) -> None:
        """Count more bytes in ``place``. Raises Overloaded if it has to give way itself."""
        place.num_bytes += num_bytes
        self._num_bytes += num_bytes
        self._arriving.add(place)
        while self._num_bytes > self._max_bytes:
            largest = max(self._arriving, key=lambda each: each.num_bytes)
            if largest is place:
                raise no_room()
            self.give_back(largest)
            largest.give_way()

    def arrived(self, place: BodyPlace) -> None:
        """Note that a body is whole, from when on it gives way to nobody."""
        self._arriving.discard(place)

    def give_back(self, place: BodyPlace) -> None:
        """Count nothing in ``place`` any longer."""
        self._arriving.discard(place)
        self._num_bytes -= place.num_bytes
        place.num_bytes = 0


class BodyPlace:
    """One request's part of the room for bodies, for as long as its context lasts."""

    def __init__(self, room: BodyRoom) -> None:
        self.num_bytes = 0
        self._room = room
        self._task: asyncio.Task[object] | None = None
        self._has_given_way = False

    def __enter__(self) -> BodyPlace:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.give_back(self)

    def give_way(self) -> None:
        """End the reading of this body."""
        self._has_given_way = True
        assert self._task is not None, "nobody reads it"
        self._task.cancel()

    def hold(self, num_bytes: int) -> None:
        """Count bytes of what was made of the body. Raises Overloaded where there is no room."""
        try:
            self._room.take(self, num_bytes)
        finally:
            self._room.arrived(self)

    async def read(self, receive: Receive, max_bytes: int) -> bytes:
        """Return the whole body.

        Raises PayloadTooLarge as soon as it exceeds ``max_bytes``, Overloaded where there is no
        room for it, RequestCancelled when the client leaves before its end.
        """
        self._task = task = asyncio.current_task()
        assert task is not None, "there is no task to cancel"
        try:
            return await self._read(receive, max_bytes)
        except asyncio.CancelledError:
            if self._has_given_way and task.uncancel() == 0:  # by nobody else
                raise no_room() from None
            raise
        finally:
            self._room.arrived(self)

    async def _read(self, receive: Receive, max_bytes: int) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestCancelled("The client left before the end of the body.")
            chunk: bytes = message.get("body", b"")
            if len(body) + len(chunk) > max_bytes:
                raise _too_large(max_bytes)
            self._room.take(self, len(chunk))
            if not message.get("more_body", False) and not body:
                return chunk
            body += chunk
            if not message.get("more_body", False):
                return bytes(body)


def no_room() -> Overloaded:
    """Return the error of a body that gives way."""
    return Overloaded(
        "There is no room for the bodies of all requests, and this is the largest.",
        ShedReason.REJECTED_SATURATED,
    )


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {max_bytes} bytes.")


# ---- what a head says of its body ---------------------------------------------------------------


def media_type(headers: Headers) -> str:
    """Return what a body is said to be, without parameters; empty if that is not said."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def check_type(headers: Headers, served: Iterable[str]) -> None:
    """Raise UnsupportedImage for a body that does not say it is of one of these types."""
    if media_type(headers) not in served:
        stated = headers.get("content-type")
        found = "the request has none" if stated is None else f"it is {shown(stated)}"
        raise UnsupportedImage(f"Content-Type must be one of {', '.join(served)}; {found}.")


def check_head(headers: Headers, max_bytes: int) -> None:
    """Refuse what no body can be before any of it is read.

    Raises UnsupportedImage for a compressed one, PayloadTooLarge for one that states too many
    bytes.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedImage(
            f"The body must not be encoded; Content-Encoding is {shown(encoding)}."
        )
    length = integer(headers.get("content-length", "").lstrip("0") or "0")
    if length is None or length > max_bytes:  # digits they are, or it would not have come here
        raise _too_large(max_bytes)
