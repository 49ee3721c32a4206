"""The client and its commands against a server in a process of its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.servers.free_ports import free_port
from punctual import AsyncClient, Client, InvalidRequest, Unreachable
from punctual.stream import FrameStream
from serving.__main__ import main
from serving.core.command_errors import FAILURE, MISTAKE
from tests.e2e.process import PATIENCE_S, Server, fake_server
from tests.serving.fakes import JPEG

BUDGET_MS = PATIENCE_S * 1e3
"""Ample, whatever else this machine does; the server cuts it to its largest."""


@pytest.fixture(scope="module")
def server():
    with fake_server() as started:
        yield started


def test_one_connection_serves_many_calls(server: Server) -> None:
    with Client(server.url) as client:
        replies = [client.detect(JPEG, deadline_ms=BUDGET_MS, max_depth=3) for _ in range(3)]
        assert {reply.exit_depth for reply in replies} == {3}
        assert {reply.labels[0] for reply in replies} == {"square"}
        assert all(reply.timings.round_trip_ms >= reply.timings.elapsed_ms for reply in replies)
        with pytest.raises(InvalidRequest, match="Not a kind of image"):
            client.detect(b"text")
        assert client.models()["models"][0]["name"] == "cells"


def test_many_tasks_share_a_client(server: Server) -> None:
    async def ask() -> set[str]:
        async with AsyncClient(server.url) as client:
            calls = [client.detect(JPEG, deadline_ms=BUDGET_MS) for _ in range(8)]
            return {reply.request_id for reply in await asyncio.gather(*calls)}

    assert len(asyncio.run(ask())) == 8


def test_nobody_there_is_told() -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(Unreachable):
        client.detect(JPEG)


def test_detect_prints_and_draws(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    out = tmp_path / "drawn.jpg"
    options = ("--url", server.url, "--deadline-ms", str(BUDGET_MS), "--json", "--draw", str(out))
    assert main(["detect", str(tmp_path), *options]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["detections"][0]["label"] == "square"
    assert out.read_bytes() != JPEG


def watch(server: Server, source: Path, out: Path, *options: object) -> list[dict[str, Any]]:
    """What ``punctual watch`` says of each frame of ``source``."""
    pytest.importorskip("av", reason="the extra watch is not installed")
    given = ("--url", server.url, "--deadline-ms", BUDGET_MS, "--json", out, *options)
    assert main(["watch", str(source), *map(str, given)]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_folder_is_watched(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(JPEG)
    frames = watch(server, tmp_path / "in", tmp_path / "frames.jsonl", "--rate", 100)
    assert [frame["frame"] for frame in frames] == [1, 2, 3, 4, 5]
    assert frames[-1]["outcome"] == "answered", "the newest is always worth work"
    assert {frame["outcome"] for frame in frames} <= {"answered", "superseded", "skipped"}
    assert frames[-1]["detections"][0]["label"] == "square"
    assert capsys.readouterr().err.startswith("5 frames: ")


def test_a_film_is_watched_and_drawn(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra watch is not installed")
    from punctual.cli.watching.sources import Source
    from tests.punctual.cli.watching.films import write_film

    film = write_film(tmp_path / "film.mp4", num_frames=6, rate_hz=20)
    drawn = tmp_path / "drawn.mkv"
    frames = watch(server, film, tmp_path / "frames.jsonl", "--out", drawn)
    sent = [frame for frame in frames if frame["outcome"] != "skipped"]
    assert len(frames) == 6
    shown_s = [frame.at_s for frame in Source(str(drawn), None).frames()]
    assert shown_s == pytest.approx([frame["at_s"] for frame in sent], abs=0.002)


def test_a_stream_that_the_server_refuses_is_told(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av", reason="the extra watch is not installed")
    (tmp_path / "a.jpg").write_bytes(JPEG)
    options = ("--url", server.url, "--classes", "unicorn")
    assert main(["watch", str(tmp_path), *options]) == MISTAKE
    assert "unicorn" in capsys.readouterr().err
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert main(["watch", str(tmp_path), "--url", nowhere]) == FAILURE
    assert "does not answer" in capsys.readouterr().err


def test_a_stream_can_be_driven_by_hand(server: Server) -> None:
    with FrameStream("door", server.url, deadline_ms=BUDGET_MS, max_depth=3) as stream:
        assert [stream.send(JPEG), stream.send(b"text")] == [1, 2]
        told = {
            reply.frame: reply for reply in (stream.receive(PATIENCE_S), stream.receive(PATIENCE_S))
        }
        assert (told[1].outcome, told[1].reply.exit_depth) == ("answered", 3)
        assert isinstance(told[2].problem, InvalidRequest)
        stream.allow(1)
        stream.send(JPEG)
        assert stream.receive(PATIENCE_S).outcome in ("budget-infeasible", "body-timeout")
        with FrameStream("door", server.url) as newer:
            with pytest.raises(Unreachable, match="4409"):
                stream.receive(PATIENCE_S)
            newer.send(JPEG)
            assert newer.receive(PATIENCE_S).outcome == "answered"
