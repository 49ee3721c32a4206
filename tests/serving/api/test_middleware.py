from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from serving.api.middleware import SKIPPABLE_BYTES, Middleware
from tests.serving.fakes import FakeClock

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Conversation:
    """One request through it to an app that answers ``status`` without reading the body."""

    def __init__(
        self, headers: dict[str, str], status: int = 200, body: list[Message] | None = None
    ) -> None:
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self.scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": raw}
        self.status = status
        self.left = body or []
        self.sent: list[Message] = []

    async def app(self, _: Scope, receive: Receive, send: Send) -> None:
        if self.status == 200:
            while (await receive()).get("more_body"):
                pass
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"reply"})

    async def receive(self) -> Message:
        return self.left.pop(0) if self.left else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def hold(self) -> dict[bytes, bytes]:
        await Middleware(self.app, FakeClock())(self.scope, self.receive, self.send)
        return dict(self.sent[0]["headers"])


def chunk(size: int = 1, more: bool = True) -> Message:
    return {"type": "http.request", "body": bytes(size), "more_body": more}


@pytest.mark.anyio
async def test_stamps_arrival() -> None:
    conversation = Conversation({})
    headers = await conversation.hold()
    assert conversation.scope["state"]["arrival_s"] == FakeClock().now
    assert conversation.scope["state"]["request_id"].encode() == headers[b"x-request-id"]


@pytest.mark.anyio
@pytest.mark.parametrize("request_id", ["a", "trace 7/8", "x" * 128])
async def test_echoes_a_request_id(request_id: str) -> None:
    headers = await Conversation({"X-Request-Id": request_id}).hold()
    assert headers[b"x-request-id"].decode() == request_id


@pytest.mark.anyio
@pytest.mark.parametrize("request_id", ["", "x" * 129, "caf\u00e9", "tab\there"])
async def test_replaces_an_unusable_request_id(request_id: str) -> None:
    headers = await Conversation({"X-Request-Id": request_id}).hold()
    assert len(headers[b"x-request-id"]) == 32


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("trace", "echoed"),
    [
        (TRACE, True),
        (b"ff" + TRACE[2:], False),
        (TRACE.upper(), False),
        (TRACE.replace(b"0af7651916cd43dd8448eb211c80319c", b"0" * 32), False),
        (TRACE.replace(b"b7ad6b7169203331", b"0" * 16), False),
        (b"", False),
    ],
)
async def test_traceparent(trace: bytes, echoed: bool) -> None:
    headers = await Conversation({"traceparent": trace.decode()}).hold()
    assert (headers.get(b"traceparent") == trace) is echoed


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "status", "closes"),
    [
        ({}, 404, False),
        ({"Content-Length": "0"}, 400, False),
        ({"Content-Length": "1000"}, 400, False),
        ({"Content-Length": "1000"}, 408, True),
        ({"Content-Length": str(SKIPPABLE_BYTES + 1)}, 413, True),
        ({"Content-Length": "five"}, 413, True),
        ({"Transfer-Encoding": "chunked"}, 413, True),
    ],
)
async def test_leaves_clients_that_still_send(
    headers: dict[str, str], status: int, closes: bool
) -> None:
    body = [chunk(), chunk(), chunk(more=False)]
    conversation = Conversation(headers, status, body)
    replied = await conversation.hold()
    assert (replied.get(b"connection") == b"close") is closes
    assert (body == []) is closes  # what they were sending has been read, and dropped
    bodies = [(m.get("body", b""), m.get("more_body", False)) for m in conversation.sent[1:]]
    expected: list[tuple[bytes, bool]] = (
        [(b"reply", True), (b"", False)] if closes else [(b"reply", False)]
    )
    assert bodies == expected


@pytest.mark.anyio
async def test_does_not_linger_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.api.middleware.LINGER_BYTES", 10)
    body = [chunk(4) for _ in range(100)]
    await Conversation({"Transfer-Encoding": "chunked"}, 413, body).hold()
    assert len(body) == 97


@pytest.mark.anyio
async def test_a_body_that_was_read_keeps_the_connection() -> None:
    conversation = Conversation({"Transfer-Encoding": "chunked"}, 200, [chunk(), chunk(more=False)])
    assert b"connection" not in await conversation.hold()


@pytest.mark.anyio
@pytest.mark.parametrize("leaving", [False, True])
async def test_a_server_about_to_end_sends_its_clients_elsewhere(leaving: bool) -> None:
    conversation = Conversation({}, 200, [chunk(more=False)])
    middleware = Middleware(conversation.app, FakeClock(), leaving=lambda: leaving)
    await middleware(conversation.scope, conversation.receive, conversation.send)
    headers = dict(conversation.sent[0]["headers"])
    assert (headers.get(b"connection") == b"close") is leaving
    assert conversation.sent[1:] == [{"type": "http.response.body", "body": b"reply"}]


@pytest.mark.anyio
async def test_other_scopes_pass() -> None:
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.append(arguments[0])

    await Middleware(app, FakeClock())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}]
