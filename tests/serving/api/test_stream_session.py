"""Streams over WebSockets: what each frame is answered, and how connections end."""

from __future__ import annotations

import asyncio
import base64
import logging
import struct
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from serving.access.keys import Keyring
from serving.api.stream_frames import SessionFrames
from serving.core.errors import FrameSuperseded
from serving.core.ports import Image
from serving.core.request import Answered, Request
from serving.websocket_protocol import PIECE_BYTES, WebSocketConnection
from tests.serving.api.test_access_gate import key, key_file
from tests.serving.fakes import JPEG
from tests.serving.gateway import Gateway
from tests.serving.streams import MAX_MESSAGE_BYTES, StreamServer, serving_streams

pytestmark = pytest.mark.anyio

HANDSHAKE = (
    b"GET /v1/streams/%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


class Gate:
    """A backend's behaviour: answer once it is let."""

    def __init__(self, gateway: Gateway) -> None:
        self._backend = gateway.backend
        self._open = asyncio.Event()
        self.seen: list[Request] = []
        gateway.backend.behaviour = self.answer

    async def answer(self, image: Image, request: Request) -> Answered:
        self.seen.append(request)
        await self._open.wait()
        return await self._backend.answer(image, request)

    def open(self) -> None:
        self._open.set()

    async def begun(self, number: int) -> None:
        await until(lambda: len(self.seen) >= number)


class TestFrames:
    async def test_each_is_told_of_once(self) -> None:
        gateway = Gateway()
        async with serving_streams(gateway) as server, server.stream("cam?deadline_ms=8000") as cam:
            for number in (1, 2, 3):
                await cam.send(JPEG)
                told = await cam.next()
                assert told["frame"] == number
                assert told["outcome"] == "answered"
                assert told["budget_ms"] == 8000.0
                assert len(told["detections"]) == 3
                assert told["request_id"].endswith(f"-{number}")
        assert gateway.outcomes() == {"ok": 3}

    async def test_a_reply_is_that_of_a_single_image(self) -> None:
        gateway = Gateway()
        single = (await gateway.detect(params={"score_threshold": "0.6"})).json()
        async with (
            serving_streams(gateway) as server,
            server.stream("cam?score_threshold=0.6") as cam,
        ):
            await cam.send(JPEG)
            told = await cam.next()
        own = {"request_id", "frame", "outcome"}
        assert {name: told[name] for name in told if name not in own} == {
            name: single[name] for name in single if name not in own
        }

    async def test_a_bad_one_is_a_problem_and_the_next_is_served(self) -> None:
        gateway = Gateway()
        async with serving_streams(gateway) as server, server.stream() as cam:
            await cam.send(b"no image", JPEG)
            told = await cam.next()
            assert (told["frame"], told["outcome"]) == (1, "unsupported-image")
            assert told["type"] == "urn:punctual:problem:unsupported-image"
            assert told["status"] == 415
            assert (await cam.next())["outcome"] == "answered"
        assert gateway.outcomes() == {"invalid": 1, "ok": 1}

    async def test_beyond_those_under_way_only_the_newest_waits(self) -> None:
        gateway = Gateway(max_stream_frames=2)
        async with serving_streams(gateway) as server, server.stream() as cam:
            gate = Gate(gateway)
            for number in (1, 2):
                await cam.send(JPEG)
                await gate.begun(number)
            await cam.send(JPEG, JPEG, JPEG)
            assert await cam.outcomes(2) == {3: "superseded", 4: "superseded"}
            gate.open()
            assert await cam.outcomes(3) == dict.fromkeys((1, 2, 5), "answered")
            assert [request.stream for request in gate.seen] == ["cam"] * 3
        assert gateway.outcomes() == {"ok": 3, "superseded": 2}

    async def test_what_the_engine_supersedes_is_told(self) -> None:
        gateway = Gateway()

        async def superseding(*_: Any) -> Answered:
            raise FrameSuperseded("x")

        gateway.backend.behaviour = superseding
        async with serving_streams(gateway) as server, server.stream() as cam:
            await cam.send(JPEG)
            told = await cam.next()
        assert (told["outcome"], told["status"]) == ("superseded", 409)

    async def test_of_a_client_that_leaves_are_cancelled(self) -> None:
        gateway = Gateway()
        async with serving_streams(gateway) as server:
            async with server.stream() as cam:
                gate = Gate(gateway)
                await cam.send(JPEG)
                await gate.begun(1)
            await until(lambda: gateway.outcomes() == {"cancelled": 1})
            assert not server.connections._by_address


class TestBudgets:
    async def test_a_text_changes_that_of_the_frames_that_follow(self) -> None:
        gateway = Gateway()
        async with serving_streams(gateway) as server, server.stream("cam?deadline_ms=8000") as cam:
            await cam.send(JPEG, '{"deadline_ms": 9120.5}', JPEG)
            told = [await cam.next() for _ in range(2)]
        assert {each["frame"]: each["budget_ms"] for each in told} == {1: 8000.0, 2: 9120.5}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "x",
            "[]",
            "{}",
            '{"deadline_ms": 0}',
            '{"deadline_ms": NaN}',
            '{"deadline_ms": "soon"}',
            '{"deadline_ms": true}',
            '{"deadline_ms": 9, "more": 1}',
            '{"deadline_ms": 1' + "0" * 5000 + "}",
            "[" * 4000,
        ],
    )
    async def test_a_text_that_makes_no_sense_is_said_and_changes_nothing(self, text: str) -> None:
        gateway = Gateway()
        async with serving_streams(gateway) as server, server.stream("cam?deadline_ms=8000") as cam:
            await cam.send(text, JPEG)
            told = await cam.next()
            assert "frame" not in told
            assert told["outcome"] == "invalid-parameter"
            assert "deadline_ms" in told["detail"]
            assert (await cam.next())["budget_ms"] == 8000.0
        assert gateway.outcomes() == {"ok": 1}

    @pytest.mark.parametrize(
        ("stated", "outcome"),
        [("1e300", "answered"), ("1e-300", "budget-infeasible"), ("1e308", "answered")],
    )
    async def test_any_number_is_one(self, stated: str, outcome: str) -> None:
        """What JSON can state and a parameter cannot."""
        async with serving_streams(Gateway()) as server, server.stream() as cam:
            await cam.send(f'{{"deadline_ms": {stated}}}', JPEG)
            assert await cam.outcomes(1) == {1: outcome}


class TestHandshakes:
    @pytest.mark.parametrize(
        "lines",
        [
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Sec-WebSocket-Protocol: \xff\r\n",
            b"Sec-WebSocket-Key: \xff\r\n",
            b"",
            b"Sec-WebSocket-Key: short\r\n",
        ],
    )
    async def test_what_is_none_is_told_so(
        self, lines: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        head = (
            b"GET /v1/streams/cam HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        )
        async with serving_streams(Gateway()) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(head + lines + b"\r\nhello")
            reply = await reader.read()
            writer.close()
            assert reply.startswith(b"HTTP/1.1 400 ")
            assert b"urn:punctual:problem:invalid-request" in reply
            assert server.refused == ["invalid-request"]
            await until(lambda: not server.state.connections)
        assert not caplog.records

    async def test_what_follows_at_once_waits_for_the_answer(self) -> None:
        frame = Frame(Opcode.BINARY, JPEG + bytes(5000)).serialize(mask=True)
        async with serving_streams(Gateway()) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HANDSHAKE % b"cam" + frame)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert b'{"frame":1,"outcome":"answered"' in await reader.readuntil(b'answered"')
            writer.close()

    async def test_what_follows_a_refused_one_is_dropped(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serving_streams(Gateway()) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HANDSHAKE % b"cam?deadline_ms=nan" + b"GET / HTTP/1.1\r\n\r\n" * 99)
            reply = await reader.read()
            writer.close()
            assert reply.startswith(b"HTTP/1.1 400 ")
            assert b"invalid-parameter" in reply
            await until(lambda: not server.state.connections)
        assert not caplog.records

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("cam?deadline_ms=0", 400),
            ("cam?min_depth=9", 400),
            ("cam?unknown=1", 400),
            ("cam?frame=1", 400),
            ("cam?stream=other", 400),
            ("cam?rate=0", 400),
            ("cam?rate=fast", 400),
            ("cam?rate=5&rate=5", 400),
            ("cam/era", 400),
            ("", 400),
            ("x" * 65, 400),
        ],
    )
    async def test_a_wish_that_makes_no_sense_is_refused(
        self, path: str, status: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        async with serving_streams(Gateway()) as server:
            refused = await refusal(server, path)
            assert refused.response.status_code == status
            assert refused.response.headers["content-type"] == "application/problem+json"
            assert b"invalid-parameter" in refused.response.body
            assert refused.response.headers["x-request-id"]
        assert not caplog.records, "what a client gets wrong is not for the log"

    async def test_a_key_is_asked_for(self, tmp_path: Any) -> None:
        gateway = Gateway(keys_file=key_file(tmp_path))
        async with serving_streams(gateway) as server:
            assert (await refusal(server)).response.status_code == 401
            async with server.stream(additional_headers=key("plain")) as cam:
                await cam.send(JPEG)
                assert (await cam.next())["outcome"] == "answered"
        assert gateway.sample("punctual_refused_total", problem="unauthenticated") == 1

    async def test_a_page_shows_it_as_a_subprotocol(self, tmp_path: Any) -> None:
        gateway = Gateway(keys_file=key_file(tmp_path))
        written = base64.urlsafe_b64encode(b"plain").decode().rstrip("=")
        offered: Any = ["punctual", f"punctual.key.{written}"]
        async with serving_streams(gateway) as server, server.stream(subprotocols=offered) as cam:
            assert cam.connection.subprotocol == "punctual", "never the key"
            await cam.send(JPEG)
            assert (await cam.next())["outcome"] == "answered"

    async def test_a_rate_holds_for_each_frame(self, tmp_path: Any) -> None:
        gateway = Gateway(keys_file=key_file(tmp_path))
        async with (
            serving_streams(gateway) as server,
            server.stream(additional_headers=key("slow")) as cam,
        ):
            await cam.send(JPEG, JPEG)  # two a second, the handshake included
            outcomes = await cam.outcomes(2)
        assert sorted(outcomes.values()) == ["answered", "too-many-requests"]

    async def test_who_is_no_longer_known_is_told_and_closed(
        self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway = Gateway(keys_file=key_file(tmp_path))
        async with (
            serving_streams(gateway) as server,
            server.stream(additional_headers=key("plain")) as cam,
        ):
            monkeypatch.setattr(Keyring, "find", lambda *_: None)
            await cam.send(JPEG)
            assert (await cam.next())["outcome"] == "unauthenticated"
            assert await cam.closed() == (1008, "the key is no longer known here")

    async def test_a_page_from_elsewhere_is_refused(self) -> None:
        async with serving_streams(Gateway()) as server:
            for origin in (
                "https://example.com",
                "null",
                "//",
                "http://[",
                "http://a]",
                "x://[::1",
            ):
                assert (await refusal(server, origin=origin)).response.status_code == 403
            async with server.stream(origin=f"http://127.0.0.1:{server.port}") as cam:
                await cam.send(JPEG)
                assert (await cam.next())["outcome"] == "answered"

    async def test_pages_that_a_setting_names_may(self) -> None:
        async with (
            serving_streams(Gateway(cors_origins="https://example.com")) as server,
            server.stream(origin="https://example.com") as cam,
        ):
            await cam.send(JPEG)
            assert (await cam.next())["outcome"] == "answered"

    async def test_another_host_is_refused(self) -> None:
        async with serving_streams(Gateway(allowed_hosts="example.com")) as server:
            assert (await refusal(server)).response.status_code == 421

    async def test_too_many_streams_are_refused(self) -> None:
        async with serving_streams(Gateway(max_streams=1)) as server, server.stream("one"):
            assert (await refusal(server, "two")).response.status_code == 429

    async def test_without_an_upgrade_there_is_an_explanation(self) -> None:
        async with Gateway().client() as client:
            response = await client.get("/v1/streams/cam")
        assert response.status_code == 400
        assert "WebSocket" in response.json()["detail"]


class TestPromises:
    async def promised_hz(self, gateway: Gateway) -> float:
        """Frames a second that can be promised at the quickest point."""
        async with gateway.client() as client:
            models = (await client.get("/v1/models")).json()
        (model,) = models["models"]
        rates = [entry["promised_hz"] for entry in model["exits"]]
        assert rates == sorted(rates, reverse=True)
        assert models["front"][0]["promised_hz"] == rates[0]
        return float(rates[0])

    async def test_a_rate_is_promised_while_the_connection_lasts(self) -> None:
        gateway = Gateway()
        before_hz = await self.promised_hz(gateway)
        async with serving_streams(gateway) as server:
            async with server.stream(f"one?rate={before_hz / 2:.2f}") as cam:
                await cam.send(JPEG)
                assert (await cam.next())["outcome"] == "answered"
                (_, request), *_ = gateway.backend.seen
                assert request.is_promised
                assert 0.0 < await self.promised_hz(gateway) < before_hz
                refused = await refusal(server, f"two?rate={before_hz:.2f}")
                assert refused.response.status_code == 503
                assert b"can promise" in refused.response.body
            await until(lambda: not server.state.connections)
        assert await self.promised_hz(gateway) == before_hz


class TestEnds:
    async def test_a_server_that_ends_answers_what_it_has_read(self) -> None:
        gateway = Gateway()
        async with serving_streams(gateway) as server, server.stream() as cam:
            gate = Gate(gateway)
            await cam.send(JPEG)
            await gate.begun(1)
            server.shut_down()
            gate.open()
            assert (await cam.next())["outcome"] == "answered"
            assert await cam.closed() == (1001, "the server is shutting down")
        await until(lambda: not server.state.connections)

    async def test_one_that_drains_lets_go_after_the_next_frame(self) -> None:
        gateway = Gateway()
        async with serving_streams(gateway) as server, server.stream() as cam:
            gateway.lifecycle.drain()
            await cam.send(JPEG)
            assert (await cam.next())["outcome"] == "answered"
            assert await cam.closed() == (1001, "the server is shutting down")
            assert (await refusal(server)).response.status_code == 503

    async def test_a_stream_without_frames(self) -> None:
        async with (
            serving_streams(Gateway(stream_idle_ms=20)) as server,
            server.stream() as cam,
        ):
            await cam.send('{"deadline_ms": 9}')  # which is none
            assert await cam.closed() == (4408, "no frame for too long")

    async def test_a_newer_connection_takes_a_stream_over(self) -> None:
        gateway = Gateway()
        async with serving_streams(gateway) as server, server.stream() as old:
            await old.send(JPEG)
            assert (await old.next())["frame"] == 1
            async with server.stream() as new:
                assert await old.closed() == (4409, "another connection sends this stream now")
                await new.send(JPEG)
                assert await new.outcomes(1) == {1: "answered"}


class TestBounds:
    async def test_a_message_that_is_too_large(self) -> None:
        async with serving_streams(Gateway()) as server, server.stream() as cam:
            await cam.send(bytes(MAX_MESSAGE_BYTES + 1))
            code, _ = await cam.closed()
            assert code == 1009

    async def test_it_is_told_so_though_it_goes_on(self) -> None:
        head = struct.pack(">BBQ", 0x82, 0xFF, 2**40) + bytes(4)
        async with serving_streams(Gateway()) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HANDSHAKE % b"cam")
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + bytes(2**22))
            assert struct.pack(">H", 1009) in await reader.read()
            writer.close()

    @pytest.mark.parametrize("pieces", [[b"\xff"], [b"{", b"\xc3", b"(}"], [b"{\xe2\x82"]])
    async def test_a_text_that_is_none(
        self, pieces: list[bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serving_streams(Gateway()) as server, server.stream() as cam:
            await cam.connection.send(pieces, text=True)
            assert (await cam.closed())[0] == 1007
        assert not caplog.records, "what a client gets wrong is not for the log"

    async def test_a_message_in_tiny_pieces(self) -> None:
        async with serving_streams(Gateway()) as server, server.stream() as cam:
            await cam.connection.send([b"x"] * 100)
            code, _ = await cam.closed()
            assert code == 1008

    @pytest.mark.parametrize("kind", ["texts", "pings"])
    async def test_many_small_messages_are_not_read_in_one_go(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Others have their turns in between."""
        monkeypatch.setattr("serving.websocket_protocol.MAX_TURN_S", -1.0)
        turn, seen = 0, []
        read_text, read_ping = SessionFrames.configure, WebSocketConnection.handle_ping

        def text(frames: SessionFrames, text: str) -> None:
            seen.append(turn)
            read_text(frames, text)

        def ping(connection: WebSocketConnection) -> None:
            seen.append(turn)
            read_ping(connection)

        async def others() -> None:
            nonlocal turn
            while True:
                await asyncio.sleep(0)
                turn += 1

        monkeypatch.setattr(SessionFrames, "configure", text)
        monkeypatch.setattr(WebSocketConnection, "handle_ping", ping)
        opcode, number = {"texts": (0x81, 200), "pings": (0x89, 5 * PIECE_BYTES // 6)}[kind]
        async with serving_streams(Gateway()) as server, server.stream() as cam:
            counting = asyncio.create_task(others())
            cam.connection.transport.write(bytes([opcode, 0x80, 0, 0, 0, 0]) * number)
            await until(lambda: len(seen) == number)
            counting.cancel()
            cam.connection.transport.abort()
        assert len(set(seen)) >= {"texts": number, "pings": 5}[kind]

    async def test_of_a_message_that_is_broken_off_nothing_is_kept(self) -> None:
        async with serving_streams(Gateway()) as server, server.stream() as cam:
            begun = b"\x82\xfe" + (50_000).to_bytes(2, "big") + bytes(4 + 20_000)
            cam.connection.transport.write(begun)
            await until(lambda: server.bodies._num_bytes >= 20_000)
            cam.connection.transport.abort()
            await until(lambda: not server.state.connections and not server.state.tasks)
            assert server.bodies._num_bytes == 0
            assert not server.bodies._arriving

    async def test_messages_that_there_is_no_room_for(self) -> None:
        """The largest that has come in part gives way, and a frame of ordinary size finds room."""
        async with (
            serving_streams(Gateway(), max_bodies_bytes=50_000) as server,
            server.stream("small") as small,
            server.stream("large") as large,
        ):
            part = asyncio.Event()

            async def pieces():
                yield bytes(40_000)
                await part.wait()
                yield bytes(20_000)

            sending = asyncio.create_task(large.connection.send(pieces()))
            await until(lambda: server.bodies._num_bytes >= 40_000)
            await small.send(JPEG * 15)
            assert (await small.next())["outcome"] == "answered"
            assert (await large.closed())[0] == 1013
            part.set()
            await asyncio.gather(sending, return_exceptions=True)
            await until(lambda: server.bodies._num_bytes == 0)

    async def test_of_a_client_that_does_not_read_nothing_is_read(self) -> None:
        gateway = Gateway(max_stream_frames=2)
        async with serving_streams(gateway) as server, server.stream() as cam:
            gate = Gate(gateway)
            await cam.send(JPEG, *[JPEG] * 200)
            await gate.begun(1)
            # It reads them all in the end, and is told of each.
            gate.open()
            outcomes = await cam.outcomes(201)
        assert sorted(outcomes) == list(range(1, 202))


async def refusal(server: StreamServer, path: str = "cam", **options: Any) -> InvalidStatus:
    """How the server refuses a handshake."""
    with pytest.raises(InvalidStatus) as refused:
        async with server.stream(path, **options):
            pass
    return refused.value
