"""Sockets of connections as their protocols see them: when they are read from, and written to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Flow control that can keep reading paused, whatever the application asks for."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_barred = False

    def bar(self) -> None:
        """Pause reading until further notice."""
        self._is_barred = True
        self.pause_reading()

    def lift(self) -> None:
        """Let reading go on."""
        self._is_barred = False
        self.resume_reading()

    def resume_reading(self) -> None:
        """Go on reading, unless it is barred."""
        if not self._is_barred:
            super().resume_reading()


class ConnectionTransport(asyncio.Transport):
    """One connection's socket, which ``hang_up`` closes and which then takes nothing more."""

    def __init__(self, transport: asyncio.Transport, hang_up: Callable[[], None]) -> None:
        super().__init__()
        self._transport = transport
        self._hang_up = hang_up
        self._is_closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def close(self) -> None:
        if not self.is_closing():
            self._is_closing = True
            self._hang_up()

    def abort(self) -> None:
        self._transport.abort()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        if not self.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


class ReplyTransport(ConnectionTransport):
    """The socket of a connection whose replies go out in one piece each.

    What is written in one turn of the event loop, such as the head of a reply and its body, is one
    system call, and wakes the client once.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        transport: asyncio.Transport,
        hang_up: Callable[[], None],
    ) -> None:
        """Make one; ``call_soon`` is the event loop's."""
        super().__init__(transport, hang_up)
        self._call_soon = call_soon
        self._parts: list[bytes | bytearray | memoryview[Any]] = []

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send ``data``, which must not change, before the event loop waits again."""
        if self.is_closing():
            return
        if not self._parts:
            self._call_soon(self.flush)
        self._parts.append(data)

    def flush(self) -> None:
        """Send what has been written at once."""
        if self._parts:
            parts, self._parts = self._parts, []
            super().write(b"".join(parts))

    def close(self) -> None:
        """Send what has been written, and hang up."""
        self.flush()
        super().close()

    def abort(self) -> None:
        """End the connection, and send nothing more."""
        self._parts.clear()
        super().abort()


class WebSocketTransport(ConnectionTransport):
    """The socket of a connection that has become a WebSocket.

    It is read from while nobody has a reason against it.
    """

    def __init__(self, transport: asyncio.Transport, hang_up: Callable[[], None]) -> None:
        super().__init__(transport, hang_up)
        self._reasons: set[str] = set()

    def pause_reading(self) -> None:
        self.pause("a message has not been taken")

    def resume_reading(self) -> None:
        self.resume("a message has not been taken")

    def pause(self, reason: str) -> None:
        self._reasons.add(reason)
        super().pause_reading()

    def resume(self, reason: str) -> None:
        self._reasons.discard(reason)
        if not self._reasons:
            super().resume_reading()
