"""Connections that have become WebSockets: what uvicorn's protocol for them leaves open.

A head is read within the bounds of every head before this begins (``http_protocol``). Messages take
their room among the bodies of all requests, from their first byte on; one that comes in too small
pieces is refused; and a client that does not read gets nothing more to read, pongs included.
"""

from __future__ import annotations

import asyncio
import logging
from codecs import getincrementaldecoder
from collections.abc import Iterable
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame
from websockets.http11 import Request

from serving.api.body import BodyPlace, BodyRoom
from serving.api.stream_session import SHUTDOWN
from serving.core.errors import Overloaded
from serving.http_transport import WebSocketTransport

NUM_FREE_PIECES = 64
"""Number of pieces that a message may come in whatever their size."""
MIN_PIECE_BYTES = 1024
"""Fewest bytes of a piece on average, in a message of more pieces."""

CLOSE_TIMEOUT_S = 2.0
"""Seconds that a client is given to answer that the connection closes."""

PIECE_BYTES = 4096
"""Number of bytes that are read at once: as many empty messages would be some hundreds."""

MAX_TURN_S = 1e-3
"""Seconds after which reading what has come waits for the event loop's next turn."""
OTHERS = "it is the turn of others"
"""Why nothing is read from the socket meanwhile."""
UNDECIDED = "the handshake has not been answered"

NO_ROOM = "there is no room for this message"

_NOT_UTF8, _POLICY, _TRY_AGAIN = 1007, 1008, 1013  # close codes

_logger = logging.getLogger(__name__)
_logger.setLevel(logging.WARNING)  # it would tell of every handshake, in the client's words


class WebSocketConnection(WebSocketsSansIOProtocol):
    """One connection of WebSocket, whose messages take their room in ``bodies``."""

    def __init__(
        self, bodies: BodyRoom, config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, app_state)
        self.logger = self.conn.logger = _logger
        self.close_timeout = CLOSE_TIMEOUT_S
        self._room = bodies
        self._place = _MessagePlace(bodies, self)
        self._held = bytearray()  # what came after a message that nobody has taken
        self._reads_on = False  # in the event loop's next turn
        self._misfit: InvalidHandshake | None = None  # what is wrong with the handshake
        self._num_message_bytes = 0  # of the message that has come in part
        self._num_queued_bytes = 0  # of those that nobody has taken

    # ---- what the client sends ------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read what has come, as far as messages are taken."""
        self._held += data
        if self._is_undecided:
            self._socket.pause(UNDECIDED)
        self._read()

    @property
    def _is_undecided(self) -> bool:
        """Whether nobody has said yet if there will be messages: what follows the head waits."""
        return self.handshake_initiated and not self.handshake_complete

    @property
    def unreadable(self) -> str | None:
        """Why the handshake, which has come, cannot be read or is none; None if it is one."""
        if self._misfit is not None:
            return str(self._misfit)
        error = self.conn.handshake_exc
        if self.handshake_initiated or error is None:
            return None
        return str(error.__cause__ or error)

    @property
    def has_said_goodbye(self) -> bool:
        """Whether the client has closed the WebSocket, after which it sends nothing."""
        return self.conn.close_rcvd is not None

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message, and read on."""
        message = await super().receive()
        if message["type"] == "websocket.receive":
            self._num_queued_bytes -= _length(message)
        if not self.read_paused:
            self._read()
        return message

    def _read(self) -> None:
        """Read what has come, but not for so long that others have to wait."""
        if self._reads_on or self._is_undecided:
            return
        ends_s = self.loop.time() + MAX_TURN_S
        while self._held and not self.read_paused:
            piece = bytes(self._held[:PIECE_BYTES])
            del self._held[:PIECE_BYTES]
            super().data_received(piece)
            if self.close_sent and not self.conn.close_rcvd:
                break  # all that is of interest is its answer
            if self._held and self.loop.time() > ends_s:
                self._reads_on = True
                self._socket.pause(OTHERS)
                self.loop.call_soon(self._read_on)
                break
        self._count()

    def _read_on(self) -> None:
        self._reads_on = False
        self._socket.resume(OTHERS)
        self._read()

    @property
    def _socket(self) -> WebSocketTransport:
        assert isinstance(self.transport, WebSocketTransport)
        return self.transport

    def _count(self) -> None:
        """Count what has come and is not taken."""
        if self.disconnected:  # and its end is only now being taken
            return
        num_bytes = self._num_queued_bytes
        if not self.close_sent:
            num_bytes += len(self.conn.reader.buffer) + self._num_message_bytes
        if num_bytes < self._place.num_bytes or not num_bytes:
            self._room.give_back(self._place)
        try:
            if num_bytes > self._place.num_bytes:
                self._room.take(self._place, num_bytes - self._place.num_bytes)
        except Overloaded:
            self.fail(_TRY_AGAIN, NO_ROOM)

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the application says."""
        was_undecided = self._is_undecided
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # refused, in all words; nothing is missing
            self._held.clear()
        if was_undecided and not self._is_undecided and not self.disconnected:
            self._socket.resume(UNDECIDED)
            self._read()

    def handle_connect(self, event: Request) -> None:
        """Take a handshake, or leave it to others to say what is wrong with it."""
        try:
            self.conn.process_request(event)
        except InvalidHandshake as error:
            self._misfit = error
            return
        super().handle_connect(event)

    def handle_text(self, event: Frame) -> None:
        """Take the first piece of a text."""
        self._num_message_bytes = len(event.data)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """Take the first piece of a frame of a stream."""
        self._num_message_bytes = len(event.data)
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        """Take a further piece of a message."""
        self._num_message_bytes += len(event.data)
        super().handle_cont(event)
        num_pieces = len(self.frames)
        if num_pieces > NUM_FREE_PIECES and self._num_message_bytes < num_pieces * MIN_PIECE_BYTES:
            self.fail(_POLICY, f"pieces of less than {MIN_PIECE_BYTES} bytes on average")

    def send_receive_event_to_app(self) -> None:
        """Queue a message that is whole."""
        if self.curr_msg_data_type == "text" and not _is_utf8(self.frames):
            self.fail(_NOT_UTF8, "the text is not UTF-8")
            return
        if not self.close_sent:
            self._num_queued_bytes += self._num_message_bytes
        self._num_message_bytes = 0
        super().send_receive_event_to_app()

    # ---- its end ---------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever serves this connection that nobody is there any longer."""
        self._room.give_back(self._place)
        self._held.clear()
        self.frames.clear()
        self.conn.reader.buffer.clear()  # it is kept for as long as anybody knows the connection
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Let what was read be answered; whoever serves this connection closes it then."""
        if self.handshake_complete and not self.close_sent:
            self.queue.put_nowait({"type": SHUTDOWN})  # type: ignore[arg-type, misc]
        else:
            super().shutdown()

    def fail(self, code: int, reason: str) -> None:
        """Close the connection for what the client has sent."""
        if self.close_sent or self.disconnected:
            return
        self.frames = []
        self._num_message_bytes = 0
        self.conn.fail(code, reason)
        self.handle_parser_exception()


def _is_utf8(pieces: Iterable[bytes]) -> bool:
    decoder = getincrementaldecoder("utf-8")()
    try:
        for piece in pieces:
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _length(message: Any) -> int:
    """Return the number of bytes of a message, as it came."""
    data = message.get("bytes")
    return len(data) if data is not None else len(message["text"].encode())


class _MessagePlace(BodyPlace):
    """One connection's part of the room for bodies."""

    def __init__(self, room: BodyRoom, connection: WebSocketConnection) -> None:
        super().__init__(room)
        self._connection = connection

    def give_way(self) -> None:
        """End the connection, in favour of smaller messages."""
        asyncio.get_running_loop().call_soon(self._connection.fail, _TRY_AGAIN, NO_ROOM)
