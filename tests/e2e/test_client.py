"""The client and its commands against a server in a process of its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from punctual import AsyncClient, BudgetInfeasible, Client, InvalidRequest, Unreachable
from serving.__main__ import main
from tests.e2e.process import PATIENCE_S, Server, fake_server, free_port
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
        with pytest.raises(BudgetInfeasible) as infeasible:
            client.detect(JPEG, deadline_ms=1)
        assert infeasible.value.min_budget_ms > 1
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
