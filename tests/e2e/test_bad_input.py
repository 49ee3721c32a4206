"""What clients send by mistake or on purpose, over a real socket: each gets its problem, and the
server is as it was."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from serving.imaging.probing import MAX_JPEG_SCANS
from serving.settings import Settings
from tests.e2e.process import AMPLE_MS, Server, arrived, head, read_reply
from tests.serving.api.test_budget import MALFORMED
from tests.serving.fakes import JPEG, encode, picture
from tests.serving.gateway import problem, slug
from tests.serving.imaging.files import flat_png, flat_webp, png, with_scans

PROGRESSIVE = encode(picture(640, 480), "JPEG", progressive=True)
LARGE = zlib.compress(bytes(2**21))
PIXELS = ((b"IDAT", zlib.compress(bytes(48 * (1 + 3 * 64)))), (b"IEND", b""))


@pytest.fixture(autouse=True)
def _still_serves(server: Server) -> Iterator[None]:
    yield
    assert server.detect(JPEG).status_code == 200
    assert server.metric("punctual_waiting_requests") == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "invalid-image"),
        (b"this is text", "unsupported-image"),
        (JPEG[: len(JPEG) // 2], "invalid-image"),
        (JPEG[:3], "invalid-image"),
        (b"GIF89a" + bytes(100), "unsupported-image"),
        (png(40_000, 40_000, (b"IDAT", zlib.compress(bytes(1 << 20)))), "payload-too-large"),
        (with_scans(PROGRESSIVE, MAX_JPEG_SCANS + 1), "payload-too-large"),
        (flat_png(1, 24_000_000, color=0, samples=1), "payload-too-large"),
    ],
    ids=["nothing", "text", "truncated", "magic-only", "gif", "bomb", "scans", "rows"],
)
def test_bodies(server: Server, content: bytes, expected: str) -> None:
    before = server.peak_memory_bytes()
    assert slug(server.detect(content)) == expected
    assert server.peak_memory_bytes() - before < 32 * 2**20


@pytest.mark.parametrize(
    "content",
    [
        encode(picture(1, 1), "PNG"),
        encode(picture(64, 48), "WEBP"),
        encode(Image.fromarray(picture(64, 48)).convert("CMYK"), "JPEG"),
        encode(np.full((48, 64), 30_000, dtype=np.uint16), "PNG"),
        encode(Image.new("RGBA", (64, 48)), "PNG"),
        JPEG[:-2],
        png(64, 48, (b"iCCP", b"scan\0\0" + LARGE), *PIXELS),
        encode(
            Image.new("RGB", (64, 48)),
            "WEBP",
            save_all=True,
            append_images=[Image.new("RGB", (64, 48), "red")],
        ),
    ],
    ids=["1x1", "webp", "cmyk", "16-bit", "alpha", "no-end", "metadata", "animated"],
)
def test_unusual_images_are_served(server: Server, content: bytes) -> None:
    assert server.detect(content).status_code == 200


@pytest.mark.parametrize(
    "large", [flat_webp(5000, 4800), flat_png(5000, 5000), flat_png(1, 12_000_000)]
)
def test_large_images_take_turns_for_memory_and_nobody_else_waits(
    server: Server, large: bytes
) -> None:
    before = server.peak_memory_bytes()
    patient = {"X-Deadline-Ms": str(AMPLE_MS)}
    with ThreadPoolExecutor(8) as clients:
        flood = [clients.submit(server.detect, large, headers=patient) for _ in range(8)]
        small = [server.detect(JPEG).status_code for _ in range(20)]
        ends = {reply.result().status_code for reply in flood}
    assert small == [200] * 20
    assert 200 in ends
    assert ends <= {200, 503}
    assert server.peak_memory_bytes() - before < Settings().max_decode_bytes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_images_are_served_upright(server: Server, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    reply = server.detect(encode(picture(64, 48), "JPEG", exif=exif.tobytes())).json()
    upright = (48, 64) if orientation >= 5 else (64, 48)
    assert (reply["image"]["width"], reply["image"]["height"]) == upright


def test_a_large_body_is_refused_by_its_length(server: Server) -> None:
    before = server.peak_memory_bytes()
    refused = server.detect(bytes(30_000_000))
    assert slug(refused) == "payload-too-large"
    assert refused.headers["connection"] == "close"
    assert server.peak_memory_bytes() - before < 16 * 2**20


def test_a_large_body_is_refused_without_a_length(server: Server) -> None:
    assert slug(server.detect(bytes(10_000) for _ in range(300))) == "payload-too-large"


def test_a_client_that_asks_first_need_not_send(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(head("Content-Length: 30000000", "Expect: 100-continue"))
        status, _ = read_reply(connection)
    assert status == 413


@pytest.mark.parametrize("text", [t for t in MALFORMED if len(t) < 100])
def test_malformed_deadlines(server: Server, text: str) -> None:
    with server.connect() as connection:
        connection.sendall(head(f"X-Deadline-Ms: {text}", f"Content-Length: {len(JPEG)}") + JPEG)
        status, body = read_reply(connection)
    assert status == 400
    assert "X-Deadline-Ms" in json.loads(body)["detail"]


def test_two_deadlines(server: Server) -> None:
    with server.connect() as connection:
        deadlines = ("X-Deadline-Ms: 40", "X-Deadline-Ms: 50")
        connection.sendall(head(*deadlines, "Content-Length: 0"))
        assert read_reply(connection)[0] == 400


@pytest.mark.parametrize(
    "query",
    ["depth=1", "min_depth=0", "min_depth=9", "score_threshold=2", "min_depth=1&min_depth=1"],
)
def test_parameters(server: Server, query: str) -> None:
    assert slug(server.detect(JPEG, params=query)) == "invalid-parameter"


def test_infeasible_budgets_say_what_would_do(server: Server) -> None:
    refused = arrived(lambda: server.detect(JPEG, headers={"X-Deadline-Ms": "0.5"}))
    assert slug(refused) == "budget-infeasible"
    assert problem(refused)["min_budget_ms"] > 10


def test_a_slow_body(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(head("X-Deadline-Ms: 60", f"Content-Length: {len(JPEG)}") + JPEG[:50])
        status, body = read_reply(connection)
        assert status == 408
        assert json.loads(body)["budget_ms"] == 60
        while connection.recv(1000):  # and it hangs up
            pass


def test_the_connection_survives_a_refusal(server: Server) -> None:
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(head("X-Deadline-Ms: 0", f"Content-Length: {len(JPEG)}") + JPEG)
            assert read_reply(connection)[0] == 400
        connection.sendall(head(f"Content-Length: {len(JPEG)}") + JPEG)
        assert read_reply(connection)[0] == 200


def test_unknown_paths_and_methods(server: Server) -> None:
    with server.client() as client:
        assert slug(client.get("/v3")) == "not-found"
        assert slug(client.put("/v1/detect", content=JPEG)) == "method-not-allowed"


def test_form(server: Server) -> None:
    with server.client() as client:
        files = {"image": ("photo.jpg", JPEG, "image/jpeg")}
        assert client.post("/v1/detect", files=files).status_code == 200
        files = {"file": ("photo.jpg", JPEG, "image/jpeg")}
        assert slug(client.post("/v1/detect", files=files)) == "invalid-parameter"


def test_the_surface(server: Server) -> None:
    with server.client() as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200
        assert "<title>Punctual</title>" in client.get("/").text
        assert client.get("/v1/models").json()["models"][0]["name"] == "cells"
        response: httpx.Response = client.get("/metrics")
    assert "server" not in response.headers
