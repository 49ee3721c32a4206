"""What the study of other clients sends, and what it makes of the replies."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image
from starlette.datastructures import Headers

from loadtest.environment.spread import Spread
from loadtest.load.client import Address, Failure, HttpReply
from loadtest.studies.clients import frigate, tiles
from loadtest.studies.clients.protocols import ProtocolFigures
from loadtest.studies.clients.report import Report, markdown, write
from loadtest.workload.images import AnnotatedImage
from serving.api.forms import read_form
from tests.serving.fakes import JPEG, encode

IMAGE = AnnotatedImage("a.jpg", JPEG, "image/jpeg")


def test_the_picture_is_made_of_all_photographs() -> None:
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    photographs = [
        AnnotatedImage("", encode(Image.new("RGB", (40, 30), each), "PNG"), "image/png")
        for each in colours
    ]
    with Image.open(io.BytesIO(tiles.picture(photographs))) as made:
        assert made.size == (2000, 1500)
        seen = [made.getpixel(at) for at in ((500, 300), (1500, 300), (500, 1200))]
    assert [[round(c, -1) for c in pixel] for pixel in seen] == [list(each) for each in colours]


def test_tiles_are_counted_by_exit_and_by_outcome() -> None:
    part = {"outcome": "answered", "operating_point": "300x300/1"}
    shed = {"outcome": "overloaded"}
    body = {"num_answered": 6, "parts": [part] * 6 + [shed] * 3}
    seen = [(100.0, 80.0, 200, body), (100.0, 90.0, 200, body), (100.0, 1.0, 503, {})]
    found = tiles._figures(seen)
    assert (found.num_requests, found.refused) == (3, {"503": 1})
    assert found.points == {"300x300/1": 12, "overloaded": 6}
    assert found.answered is not None
    assert found.answered.p50 == pytest.approx(6 / 9)


def test_a_frame_is_sent_as_frigate_does() -> None:
    request = frigate._request(Address.parse("http://127.0.0.1:1"), frigate._frame(IMAGE))
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/vision/detection HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    kind = "multipart/form-data; boundary=frigate"
    key, image = read_form(Headers({"content-type": kind}), body, 2)
    assert (key.name, key.content, image.name) == ("api_key", b"", "image")
    with Image.open(io.BytesIO(image.content)) as frame:
        assert frame.size == (320, 320)


def reply(status: int, **body: object) -> HttpReply:
    return HttpReply(0.0, 0.05, status, json.dumps(body).encode())


EACH = {"gateway": 3.0, "engine": 4.0, "client": 1.0}


def test_no_answer_counts_as_such() -> None:
    told = {"operating_point": "1x1/1", "expected_ap": 0.5}
    found = frigate._figures(
        [
            reply(200, success=True, predictions=[], **told),
            reply(200, success=True, **told),
            reply(503, success=False, error="No.", code=503),
            reply(503, success=True, predictions=[]),
            HttpReply(0.0, 0.1, failure=Failure.TIMEOUT),
        ],
        2.0,
        frigate.SERVER,
        60.0,
        EACH,
    )
    assert (found.in_time, found.timed_out, found.refused) == (0.4, 1, {"503": 2})
    assert found.malformed == 2
    assert found.latency_ms[0] == pytest.approx(50.0)


def test_the_page(tmp_path) -> None:
    spread = Spread(1.0, 2.0, 3.0)
    refused = reply(503, success=False, error="No.", code=503)
    report = Report(
        "a machine",
        "2026-01-01",
        "cells",
        [tiles.TileFigures(100.0, 3, None, None, {}, {"503": 3})],
        frigate.Capacity("300x300/1", 0.5, 30.0, 60.0),
        [frigate._figures([refused], 2.0, frigate.ENGINE, 120.0, EACH)],
        [ProtocolFigures("gRPC", 1, *[spread] * 5)],
    )
    text = "\n".join(markdown(report))
    assert "| 100 | 3 | - | - | - | 503: 3 |" in text
    assert "answers 30.0 such frames a second at most" in text
    assert "| 2 x engine alone | 120 | 1 | 0.00% | 0 | 503: 1 | 0 |" in text
    assert "| 3.0, 4.0, 1.0 |" in text
    assert "| gRPC | 1 | 2.00 (1.00 .. 3.00) |" in text
    path = write(report, tmp_path)
    assert path.name == "clients-cells-2026-01-01.md"
    assert json.loads(path.with_suffix(".json").read_text())["model"] == "cells"
