"""What clients send by mistake or on purpose, over a real socket: each gets its problem, and the
server is as it was."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.e2e.process import Server, head, read_reply
from tests.serving.api.test_budget import MALFORMED
from tests.serving.fakes import JPEG, encode, picture
from tests.serving.gateway import problem, slug
from tests.serving.imaging.test_decoding import png


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
    ],
    ids=["nothing", "text", "truncated", "magic-only", "gif", "bomb"],
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
        encode(
            Image.new("RGB", (64, 48)),
            "WEBP",
            save_all=True,
            append_images=[Image.new("RGB", (64, 48), "red")],
        ),
    ],
    ids=["1x1", "webp", "cmyk", "16-bit", "alpha", "animated"],
)
def test_unusual_images_are_served(server: Server, content: bytes) -> None:
    assert server.detect(content).status_code == 200


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
    refused = server.detect(JPEG, headers={"X-Deadline-Ms": "0.5"})
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
