"""Commands that ask a server, at one that is another: each ends in a sentence, whatever it says."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as websocket_server

from serving.__main__ import main
from serving.core.command_errors import FAILURE, MISTAKE
from tests.punctual.test_clients import ANSWER
from tests.serving.fakes import JPEG

COMMANDS = {
    "admin list": ("admin", "list"),
    "admin load": ("admin", "load"),
    "admin unload": ("admin", "unload", "x"),
    "detect": ("detect", "a.jpg"),
    "watch": ("watch", "frames"),
    "loadtest": ("loadtest", "--image", "a.jpg", "--duration", "0.1"),
    "sweep": ("sweep", "--image", "a.jpg", "--requests", "1"),
}
WITH_A_KEY = [name for name in COMMANDS if name not in ("loadtest", "sweep")]
BODIES = {
    "a list": b"[]",
    "a list of null": b"[null]",
    "null": b"null",
    "a number": b"17",
    "a text": b'"x"',
    "a page": b"<!doctype html><title>Welcome</title>",
    "a part": b'{"versions": [{"na',
    "nothing": b"",
    "no text": b"\xff\xfe\x00",
    "depth": b"[" * 100_000,
    "an object": b'{"a": 1}',
    "other types": json.dumps(
        {
            **{name: [1] for name in ANSWER},
            "versions": 5,
            "changing": {},
            "message": [],
            "models": [{"exits": [{"ap": "high"}], "classes": 3}],
            "type": 4,
        }
    ).encode(),
    "texts for numbers": json.dumps(
        {
            **ANSWER,
            "detections": [{"box": "1234", "score": "high", "label": 1, "class_id": "x"}],
            "versions": [{"name": 1, "release": 2, "role": 3, "share": "much", "ready": "no"}],
            "models": [{"name": "x", "exits": {"0": 1}}],
        }
    ).encode(),
}
RAW = {
    "no HTTP": b"220 mail.example.com ESMTP\r\n",
    "silence": b"",
    "a part of a reply": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "a part of a head": b"HTTP/1.1 200 OK\r\nContent-",
    "no length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
}


def reply(status: str, body: bytes, *lines: str) -> bytes:
    head = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *lines)
    return "\r\n".join((*head, "", "")).encode() + body


REPLIES = {
    **{name: reply("200 OK", body) for name, body in BODIES.items()},
    **{f"500, {name}": reply("500 Oh", BODIES[name]) for name in ("null", "a page", "other types")},
    **RAW,
}


class OtherServer:
    """A server that answers whatever is asked with the same bytes, and hangs up."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.answer = b""
        self.heads: list[bytes] = []

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with closing(connection):
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(5.0)
        try:
            data = b""
            while b"\r\n\r\n" not in data:
                if not (piece := connection.recv(2**16)):
                    return
                data += piece
            head, _, rest = data.partition(b"\r\n\r\n")
            self.heads.append(head)
            length = re.search(rb"(?i)content-length: (\d+)", head)
            left = int(length[1]) - len(rest) if length else 0
            while left > 0:
                left -= len(connection.recv(2**16))
            connection.sendall(self.answer)
        except OSError:
            pass  # it has hung up first


@contextmanager
def other_server() -> Iterator[OtherServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = OtherServer(listener)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[OtherServer]:
    with other_server() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(JPEG)
    Path("frames").mkdir()
    Path("frames/a.jpg").write_bytes(JPEG)
    Path("key").write_text("secret\n")
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_what_another_server_says_ends_in_a_sentence(
    server: OtherServer, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for name, answer in REPLIES.items():
        server.answer = answer
        code = main([*COMMANDS[command], "--url", server.url])
        told = capsys.readouterr().err.strip()
        assert code in (FAILURE, MISTAKE), name
        assert told.startswith("punctual: "), name
        assert "Traceback" not in told, name


@pytest.mark.usefixtures("folder")
def test_a_stream_of_another_kind_ends_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(connection: ServerConnection) -> None:
        for _ in connection:
            connection.send("[]")

    with websocket_server(answer, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        assert main(["watch", "frames", "--url", url]) == FAILURE
        server.shutdown()
        thread.join()
    assert "punctual: a message that is about no frame: '[]'" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", WITH_A_KEY)
@pytest.mark.parametrize("status", ["301 Moved", "307 Moved", "308 Moved"])
def test_a_key_is_for_the_server_that_was_named(
    server: OtherServer, capsys: pytest.CaptureFixture[str], command: str, status: str
) -> None:
    with other_server() as elsewhere:
        server.answer = reply(status, b"", f"Location: {elsewhere.url}/")
        server.heads.clear()
        options = ("--url", server.url, "--key-file", "key")
        assert main([*COMMANDS[command], *options]) in (FAILURE, MISTAKE)
        assert status[:3] in capsys.readouterr().err
        assert b"Bearer secret" in server.heads[0]
        assert not elsewhere.heads


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://a:b",
        "http://a:99999",
        "http://a..b",
        "http://a\n/",
        "//a",
        "http://:80",
    ],
)
def test_what_is_no_url_is_a_mistake(
    capsys: pytest.CaptureFixture[str], command: str, url: str
) -> None:
    assert main([*COMMANDS[command], "--url", url]) == MISTAKE
    assert capsys.readouterr().err.startswith("punctual: ")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", WITH_A_KEY)
@pytest.mark.parametrize(
    ("slug", "status"), [("unauthenticated", "401 No"), ("forbidden", "403 No")]
)
def test_who_may_not_is_told_how_to_give_a_key(
    server: OtherServer, capsys: pytest.CaptureFixture[str], command: str, slug: str, status: str
) -> None:
    problem = {"type": f"urn:punctual:problem:{slug}", "title": "No", "detail": "You may not."}
    server.answer = reply(status, json.dumps(problem).encode())
    for options, hint in (
        ((), "You may not; --key-file FILE shows the key in a file"),
        (("--key-file", "key"), "You may not; the key is that of --key-file key"),
    ):
        assert main([*COMMANDS[command], "--url", server.url, *options]) in (FAILURE, MISTAKE)
        told = capsys.readouterr().err
        assert told.strip().endswith(hint)
        assert "secret" not in told
