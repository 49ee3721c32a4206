"""``punctual detect``, with a server that a test makes up."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import punctual.client
from punctual.cli.registry import register
from punctual.images import media_type
from serving.core.command_errors import FAILURE, MISTAKE
from tests.commands import run_command
from tests.punctual.test_clients import ANSWER
from tests.serving.fakes import encode, picture

Serve = Callable[[Callable[[httpx.Request], httpx.Response]], None]


def problem(slug: str, status: int) -> httpx.Response:
    body = {"type": f"urn:punctual:problem:{slug}", "title": "No", "detail": f"It is {slug}."}
    return httpx.Response(status, json=body)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Put a function in the place of the server."""

    def replace(answer: Callable[[httpx.Request], httpx.Response]) -> None:
        client = partial(punctual.client.Client, transport=httpx.MockTransport(answer))
        monkeypatch.setattr(punctual.client, "Client", client)

    return replace


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images in a folder ``in``, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name, kind in (("a.jpg", "JPEG"), ("b.png", "PNG")):
        (Path("in") / name).write_bytes(encode(picture(64, 48), kind))
    return Path("in")


def detect(*arguments: object) -> int:
    return run_command(lambda commands: register(commands, None), "detect", *arguments)


@pytest.mark.usefixtures("images")
def test_boxes_are_printed(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={**ANSWER, "degraded": len(seen) == 2})

    serve(answer)
    assert detect("in", "--deadline-ms", 80, "--classes", "circle, square") == 0
    told = capsys.readouterr()
    first, box, second, _ = told.out.splitlines()
    assert first == "in/a.jpg  64x48  128x96/3, 20 of 80 ms"
    assert box.split() == ["square", "0.90", "1", "2", "3", "4"]
    assert second.endswith("degraded to be on time")
    assert not told.err, "there is no terminal to draw a bar on"
    assert {request.headers["X-Deadline-Ms"] for request in seen} == {"80"}
    assert {request.url.params["classes"] for request in seen} == {"circle,square"}


@pytest.mark.usefixtures("images")
def test_json_is_a_line_for_each_image(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(lambda _: httpx.Response(200, json=ANSWER))
    assert detect("in", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"file": f"in/{name}", **ANSWER} for name in ("a.jpg", "b.png")]


@pytest.mark.usefixtures("images")
def test_boxes_are_drawn_where_they_are(serve: Serve) -> None:
    box = [8, 24, 40, 44]
    found = {"box": box, "score": 0.9, "label": "s", "class_id": 1}
    serve(lambda _: httpx.Response(200, json={**ANSWER, "detections": [found]}))
    assert detect("in", "--draw", "out/new") == 0
    before, after = (np.asarray(Image.open(Path(of) / "b.png"), int) for of in ("in", "out/new"))
    changed = np.argwhere((before != after).any(axis=2))
    (_, left), (bottom, _) = changed.min(axis=0), changed.max(axis=0)
    assert (left, bottom) == (box[0], box[3])
    assert media_type(Path("out/new/a.jpg").read_bytes()) == "image/jpeg"


@pytest.mark.usefixtures("images")
def test_an_image_that_is_refused_does_not_end_the_others(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers["Content-Type"] == "image/jpeg":
            return problem("payload-too-large", 413)
        return httpx.Response(200, json=ANSWER)

    serve(answer)
    assert detect("in") == FAILURE
    told = capsys.readouterr()
    assert told.out.startswith("in/b.png")
    assert told.err.splitlines() == [
        "in/a.jpg: No: It is payload-too-large.",
        "punctual: 1 of 2 images were not answered",
    ]


def test_an_image_that_cannot_be_read_does_not_end_the_others(
    images: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        (images / "b.png").unlink()
        return httpx.Response(200, json=ANSWER)

    serve(answer)
    assert detect("in/a.jpg", "in/b.png") == FAILURE
    told = capsys.readouterr()
    assert told.out.startswith("in/a.jpg")
    assert told.err.splitlines() == [
        "in/b.png: No such file or directory",
        "punctual: 1 of 2 images were not answered",
    ]


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("slug", "status"),
    [("method-not-allowed", 405), ("invalid-parameter", 400), ("not-found", 404)],
)
def test_what_every_image_would_meet_ends_the_command(
    serve: Serve, capsys: pytest.CaptureFixture[str], slug: str, status: int
) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return problem(slug, status)

    serve(answer)
    assert detect("in") == MISTAKE
    assert len(asked) == 1
    assert capsys.readouterr().err == f"punctual: No: It is {slug}.\n"


@pytest.mark.usefixtures("images")
def test_a_server_that_is_not_there_is_a_failure(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    serve(refuse)
    assert detect("in") == FAILURE
    told = capsys.readouterr().err
    assert "does not answer: refused; `punctual serve` starts a server, --url names" in told


@pytest.mark.usefixtures("images")
def test_a_key_comes_from_a_file(serve: Serve) -> None:
    Path("key").write_text("secret\n")
    shown: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        shown.append(request.headers["Authorization"])
        return httpx.Response(200, json=ANSWER)

    serve(answer)
    assert detect("in/a.jpg", "--key-file", "key") == 0
    assert shown == ["Bearer secret"]
