"""What strangers may try, over real sockets: whoever does it is refused, and others are served."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import (
    AMPLE_MS,
    PATIENCE_S,
    Server,
    eventually,
    fake_server,
    head,
    read_reply,
)
from tests.serving.fakes import JPEG, encode, picture
from tests.serving.gateway import slug

MIB = 2**20
LONG = f"X-Deadline-Ms: {AMPLE_MS}"
ATTACKER = "127.0.0.9"
"""Address that is no proxy's, as 127.0.0.1 is."""
NUM_VICTIMS = 20
TICK_S = 0.01
"""What processor times are told in."""


@pytest.fixture(scope="module")
def attacked() -> Iterator[Server]:
    """A server that is attacked in all ways, one after the other."""
    with fake_server(
        PUNCTUAL_MAX_REQUESTS=8,
        PUNCTUAL_MAX_CONNECTIONS=64,
        PUNCTUAL_MAX_CONNECTIONS_PER_ADDRESS=32,
        PUNCTUAL_MAX_BODIES_BYTES=32 * MIB,
    ) as started:
        yield started


def assert_others_are_served(server: Server) -> None:
    """Somebody else is answered, each time on a connection of its own."""
    image = head(f"Content-Length: {len(JPEG)}", LONG) + JPEG
    for _ in range(NUM_VICTIMS):
        for request in (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", image):
            with server.connect() as connection:
                connection.sendall(request)
                assert read_reply(connection)[0] == 200


@contextlib.contextmanager
def connections(
    server: Server, number: int, address: str = ATTACKER
) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                socket.create_connection(
                    server.address, timeout=PATIENCE_S, source_address=(address, 0)
                )
            )
            for _ in range(number)
        ]


def pour(connection: socket.socket, data: bytes, times: int) -> None:
    """Send until the server has had enough of it."""
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            connection.sendall(data)


def status_line(connection: socket.socket) -> bytes:
    return connection.recv(100).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("start", "flood"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n" * 40_000),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ", b"a" * 256 * 1024),
        (b"GET /", b"a" * 256 * 1024),
        (b"", b"\r\n" * 100_000),
    ],
    ids=["lines", "value", "target", "blank"],
)
def test_heads_without_end(attacked: Server, start: bytes, flood: bytes) -> None:
    before = attacked.peak_memory_bytes()
    with connections(attacked, 1) as (connection,):
        pour(connection, start, 1)
        pour(connection, flood, 400)
        assert status_line(connection).startswith(b"HTTP/1.1 431 ")
        assert_others_are_served(attacked)
    assert attacked.peak_memory_bytes() - before < 8 * MIB


def test_unfinished_heads(attacked: Server) -> None:
    """As many as there may be connections, and more, from one address and from many."""
    with contextlib.ExitStack() as stack:
        for number in range(4):
            mine = stack.enter_context(connections(attacked, 40, f"127.0.0.{20 + number}"))
            for each in mine:
                each.sendall(b"GET /livez HT")
        assert_others_are_served(attacked)


def test_unfinished_bodies(attacked: Server) -> None:
    before = attacked.peak_memory_bytes()
    with connections(attacked, 30) as mine:
        for each in mine:
            each.sendall(head(f"Content-Length: {15 * MIB}", LONG))
        pouring = [threading.Thread(target=pour, args=(each, bytes(MIB), 14)) for each in mine]
        for thread in pouring:
            thread.start()
        assert_others_are_served(attacked)
        for thread in pouring:
            thread.join()
        assert_others_are_served(attacked)
    assert attacked.peak_memory_bytes() - before < 4 * 32 * MIB


def test_bodies_of_one_byte(attacked: Server) -> None:
    with connections(attacked, 30) as mine:
        for each in mine:
            each.sendall(head("Content-Length: 2", LONG) + b"\xff")
        assert_others_are_served(attacked)


@pytest.mark.parametrize("path", ["openapi.json", "docs", "v1/models", "metrics", "livez"])
def test_pipelines_that_nobody_reads(attacked: Server, path: str) -> None:
    with connections(attacked, 30) as mine:
        flood = f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 5000
        for each in mine:
            each.settimeout(0.01)
            with contextlib.suppress(TimeoutError, ConnectionError):
                each.sendall(flood)
        assert_others_are_served(attacked)


def seconds_to_refuse(server: Server, content: bytes) -> float:
    """Processor time that a form with something that is no image takes the server."""
    form = (
        b'--boundary\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
        + content
        + b"\r\n--boundary--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=boundary"}
    before_s = server.processor_s()
    assert server.detect(form, headers=headers).status_code in (400, 415)
    return server.processor_s() - before_s


@pytest.mark.parametrize("kind", ["near", "longer", "parts", "lines"])
def test_forms_of_boundaries(attacked: Server, kind: str) -> None:
    """They cost no more than as many bytes of anything."""
    content = {
        "near": b"\r\n--bound" * (15 * MIB // 9),
        "longer": b"\r\n--boundaryX" * (15 * MIB // 13),
        "parts": b"\r\n--boundary\r\n\r\n" * (15 * MIB // 16),
        "lines": b"\r\n" * (15 * MIB // 2),
    }[kind]
    ordinary_s = max(TICK_S, seconds_to_refuse(attacked, bytes(15 * MIB)))
    assert seconds_to_refuse(attacked, content) < 20 * ordinary_s
    assert_others_are_served(attacked)


def test_bodies_in_tiny_chunks(attacked: Server) -> None:
    chunks = b"1\r\na\r\n" * 40_000
    with connections(attacked, 4) as mine:
        for each in mine:
            each.sendall(head("Transfer-Encoding: chunked", LONG))
            pour(each, chunks, 20)
        for each in mine:
            assert status_line(each) == b"HTTP/1.1 400 Bad Request"
    assert_others_are_served(attacked)


def test_garbage_does_not_fill_the_log(attacked: Server) -> None:
    before = len(attacked.output)
    for _ in range(300):
        with connections(attacked, 1) as (connection,):
            connection.sendall(b"\x16\x03\x01 nothing like HTTP\r\n\r\n")
            assert status_line(connection) == b"HTTP/1.1 400 Bad Request"
    refusals = 'punctual_connection_refusals_total{reason="invalid-request"}'
    assert attacked.metric(refusals) >= 300
    assert len(attacked.output) - before < 10_000
    assert_others_are_served(attacked)


@pytest.mark.parametrize("num_bytes", [200_000, 900_000])
@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_a_refusal_before_the_body_is_read_arrives(
    attacked: Server, num_bytes: int, connection: str
) -> None:
    message = head("X-Deadline-Ms: 0", f"Content-Length: {num_bytes}", f"Connection: {connection}")
    for _ in range(60):
        with attacked.connect() as client:
            client.sendall(message + bytes(num_bytes))
            assert read_reply(client)[0] == 400
            if connection == "close":
                assert client.recv(1) == b""  # and no reset


UPGRADE = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
)


@pytest.mark.parametrize("apart", [False, True])
def test_upgrades_are_ignored(attacked: Server, apart: bool) -> None:
    with attacked.connect() as connection:
        for _ in range(3):
            start = head(*UPGRADE, f"Content-Length: {len(JPEG)}", LONG)
            connection.sendall(start if apart else start + JPEG)
            if apart:
                eventually(lambda: not pending(connection))
                connection.sendall(JPEG)
            assert read_reply(connection)[0] == 200


def pending(connection: socket.socket) -> bool:
    """Whether the peer has yet to receive what was sent (SIOCOUTQ)."""
    import array
    import fcntl
    import termios

    unsent = array.array("i", [0])
    fcntl.ioctl(connection, termios.TIOCOUTQ, unsent)
    return unsent[0] > 0


def test_curl_asks_for_http2_and_is_answered(attacked: Server, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl")
    image = tmp_path / "photo.png"
    image.write_bytes(encode(picture(640, 480), "PNG"))
    headers = ("-H", "Content-Type: image/png", "-H", LONG)
    done = subprocess.run(
        [
            *(curl, "-s", "--http2", *headers, "--data-binary", f"@{image}"),
            *("-w", "%{http_code}", f"{attacked.url}/v1/detect"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("200")


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/docs", "/openapi.json", "/livez", "/readyz", "/metrics", "/v1/models", "/v2"),
        *("/v2/health/live", "/v2/health/ready", "/v2/models/cells", "/nowhere", "/v1/detect"),
    ],
)
def test_head_is_as_get_without_the_body(attacked: Server, path: str) -> None:
    with attacked.client() as client:
        get, asked = client.get(path), client.head(path)
        assert asked.status_code == get.status_code
        assert asked.content == b""
        same = ("content-type", "allow", "content-security-policy")
        assert [asked.headers.get(name) for name in same] == [
            get.headers.get(name) for name in same
        ]
        assert client.get("/livez").status_code == 200  # on the same connection


def test_only_hosts_that_are_served() -> None:
    with (
        fake_server(PUNCTUAL_ALLOWED_HOSTS="detect.example.com") as server,
        server.client() as client,
    ):
        served = {"Host": "detect.example.com"}
        assert client.get("/v1/models", headers=served).status_code == 200
        assert slug(client.get("/v1/models")) == "misdirected-request"
        assert slug(client.post("/v1/detect", content=JPEG)) == "misdirected-request"
        assert client.get("/readyz").status_code == 200


def test_whoever_has_all_connections_of_an_address_is_told_so(attacked: Server) -> None:
    with connections(attacked, 32) as mine:
        for each in mine:
            each.sendall(head(f"Content-Length: {len(JPEG)}", LONG, "Expect: 100-continue"))
        for each in mine:
            assert status_line(each) == b"HTTP/1.1 100 Continue"
        with connections(attacked, 1) as (refused,):
            refused.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_reply(refused)[0] == 503
        assert_others_are_served(attacked)
        for each in mine:
            each.sendall(JPEG)
        replies = [read_reply(each)[0] for each in mine]
        assert set(replies) <= {200, 503}
        assert 200 in replies
