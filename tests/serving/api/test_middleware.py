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
        self.scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "headers": raw,
        }
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
    conversation = Conversation(headers, status, [chunk(), chunk(more=False)])
    replied = await conversation.hold()
    assert (replied.get(b"connection") == b"close") is closes
    assert conversation.sent[1:] == [{"type": "http.response.body", "body": b"reply"}]


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
async def test_replies_are_what_they_say_they_are() -> None:
    assert (await Conversation({}).hold())[b"x-content-type-options"] == b"nosniff"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("host", "is_served"),
    [
        ("detect.example.com", True),
        ("DETECT.example.com:8000", True),
        ("a.cameras.example.com", True),
        ("a.b.cameras.example.com:80", True),
        ("[::1]:8000", True),
        ("cameras.example.com", False),
        ("example.com", False),
        ("detect.example.com.evil.com", False),
        ("evil.com:80@detect.example.com", False),
        ("[::2]:8000", False),
        ("", False),
    ],
)
async def test_hosts(host: str, is_served: bool) -> None:
    hosts = ("detect.example.com", "*.cameras.example.com", "[::1]")
    conversation = Conversation({"Host": host}, 200, [chunk(more=False)])
    middleware = Middleware(conversation.app, FakeClock(), hosts=hosts)
    await middleware(conversation.scope, conversation.receive, conversation.send)
    assert conversation.sent[0]["status"] == (200 if is_served else 421)
    conversation.sent.clear()
    conversation.scope["path"] = "/livez"
    await middleware(conversation.scope, conversation.receive, conversation.send)
    assert conversation.sent[0]["status"] == 200


@pytest.mark.anyio
async def test_a_defect_is_a_problem_and_is_raised() -> None:
    async def app(*_: Any) -> None:
        raise RuntimeError("a secret")

    conversation = Conversation({})
    with pytest.raises(RuntimeError):
        await Middleware(app, FakeClock())(
            conversation.scope, conversation.receive, conversation.send
        )
    assert conversation.sent[0]["status"] == 500
    assert b"a secret" not in conversation.sent[1]["body"]


@pytest.mark.anyio
async def test_other_scopes_pass() -> None:
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.append(arguments[0])

    await Middleware(app, FakeClock())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}]
