"""The model of a running server is changed, by the command and by its HTTP side for admins."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from loadtest.servers.free_ports import free_port
from serving.__main__ import main
from tests.e2e.backends import MODEL, Load, gateway, noise
from tests.e2e.process import AMPLE_MS, PATIENCE_S, ROOT, Server

RATE = 5
BUDGETS_MS = (AMPLE_MS,)


class Changeable:
    """A server whose repository can be changed."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.repository = folder / "repository"
        shutil.copytree(repository, self.repository)
        self.admin_port = free_port()
        self.server = gateway(
            "embedded", self.repository, None, PUNCTUAL_ADMIN_PORT=self.admin_port
        )
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"

    @property
    def version_folder(self) -> Path:
        return self.repository / f"{MODEL}_anytime" / "1"

    def write_version(self, version: str) -> None:
        """Let the model in the repository be called so."""
        path = self.version_folder / "catalog.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"version": version}))

    def answered_by(self) -> str:
        reply = self.server.detect(
            noise(), headers={"Content-Type": "image/png", "X-Deadline-Ms": "9000"}
        )
        assert reply.status_code == 200, reply.text
        return str(reply.json()["version"]).partition("-")[0]

    def run_admin(self, *words: str) -> str:
        """What the command prints, as a process of its own."""
        command = (sys.executable, "-m", "serving", "admin", *words, "--url", self.admin_url)
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        return done.stdout

    def get(self, path: str) -> httpx.Response:
        """What the side for admins answers."""
        return httpx.get(f"{self.admin_url}{path}", timeout=PATIENCE_S)

    def admin(self, *words: str) -> int:
        return main(["admin", *words, "--url", self.admin_url])


@pytest.fixture(scope="module")
def changeable(
    tmp_path_factory: pytest.TempPathFactory, small_repository: Path
) -> Iterator[Changeable]:
    started = Changeable(tmp_path_factory.mktemp("models"), small_repository)
    with started.server:
        yield started


def test_a_version_is_loaded_under_load_and_nobody_fails(changeable: Changeable) -> None:
    async def scenario(server: Server) -> Counter[str]:
        async with Load(server.url, RATE, BUDGETS_MS) as load:
            await load.until(lambda ended: len(ended) >= 5)
            loaded = await asyncio.to_thread(changeable.run_admin, "load")
            num_ended = len(await load.until(lambda ended: True))
            await load.until(lambda ended: len(ended) > num_ended + 5)
            ended = await load.ended()
        assert "serves" in loaded
        return Counter(each.slug or str(each.status) for each in ended)

    before = counted_at(changeable)
    assert changeable.answered_by() == "1"
    changeable.write_version("2")
    told = asyncio.run(scenario(changeable.server))
    assert told["200"] > 0
    # What else this machine does may make it refuse some, or late: a change fails nobody.
    assert set(told) <= {"200", "overloaded", "deadline-exceeded", "body-timeout"}
    assert (counted_at(changeable) - before).total() == told.total() + 1, "each is counted once"
    assert changeable.answered_by() == "2"
    described = changeable.server.get(f"/v2/models/{MODEL}").json()
    assert described["versions"] == ["2"]


def test_a_canary_and_a_shadow(changeable: Changeable, capsys: pytest.CaptureFixture[str]) -> None:
    present = changeable.answered_by()
    changeable.write_version("3")
    assert changeable.admin("load", MODEL, "--canary", "0.5") == 0
    assert Counter(changeable.answered_by() for _ in range(6)) == {present: 3, "3": 3}
    assert changeable.admin("load", "--shadow") == 0
    assert changeable.answered_by() == present
    assert changeable.admin("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["current 1" in lines[-2], "shadow 0" in lines[-1]] == [True, True]
    metrics = changeable.get("/metrics").text
    assert 'punctual_version_results_total{result="answered",version="3-' in metrics
    assert changeable.admin("unload", "--candidate") == 0
    assert changeable.answered_by() == present
    metrics = changeable.get("/metrics").text
    assert 'version="3-' not in metrics


def test_what_cannot_serve_is_refused_and_said(
    changeable: Changeable, capsys: pytest.CaptureFixture[str]
) -> None:
    present = changeable.answered_by()
    changeable.write_version("4")
    segment = changeable.version_folder / "head_1.onnx"
    data = segment.read_bytes()
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 4
    segment.write_bytes(damaged)
    assert changeable.admin("load") == 1
    assert "head_1.onnx is not the file that was built" in capsys.readouterr().err
    assert changeable.answered_by() == present
    segment.write_bytes(data)
    assert changeable.admin("load", "others") == 1
    assert f"there is '{MODEL}'" in capsys.readouterr().err


def test_an_unloaded_model_can_be_loaded_again(changeable: Changeable) -> None:
    assert changeable.admin("unload") == 0
    server = changeable.server
    assert server.get("/readyz").json()["type"].endswith(":model-unloaded")
    assert server.get("/livez").status_code == 200
    refused = server.detect(noise(), headers={"Content-Type": "image/png"})
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (
        503,
        "model-unloaded",
    )
    with server.client() as client:
        (model,) = client.post("/v2/repository/index").json()
    assert model["state"] == "UNAVAILABLE"
    # As a client of Triton does.
    reply = httpx.post(
        f"{changeable.admin_url}/v2/repository/models/{MODEL}/load", timeout=PATIENCE_S
    )
    assert reply.status_code == 200, reply.text
    assert changeable.answered_by() == "4"
    assert server.is_ready()


def test_floods_of_changes_and_slow_messages_keep_nobody_waiting(changeable: Changeable) -> None:
    path = f"/v2/repository/models/{MODEL}/load"
    lines = (f"POST {path} HTTP/1.1", "Host: x", "Content-Length: 60000", "", "{")
    with contextlib.ExitStack() as opened:
        for _ in range(100):
            slow = socket.create_connection(("127.0.0.1", changeable.admin_port))
            opened.enter_context(slow).sendall("\r\n".join(lines).encode())
        version = changeable.answered_by()
        with ThreadPoolExecutor(8) as pool:
            url = f"{changeable.admin_url}{path}"
            replies = list(
                pool.map(lambda _: httpx.post(url, timeout=PATIENCE_S).status_code, range(40))
            )
        assert Counter(replies).keys() <= {200, 409}, "it serves already, or another is under way"
        assert 200 in replies
        assert changeable.answered_by() == version
        there = changeable.get("/v1/admin/models").json()
        assert (there["changing"], len(there["versions"])) == (False, 1)


def test_the_side_for_admins_is_not_the_other(changeable: Changeable) -> None:
    path = f"/v2/repository/models/{MODEL}/load"
    with changeable.server.client() as client:
        assert client.post(path).status_code == 404


def test_no_answer_is_said(changeable: Changeable, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["admin", "list", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "no answer from" in capsys.readouterr().err


def counted_at(changeable: Changeable) -> Counter[str]:
    """Requests that the server says have ended, by its port for admins."""
    text = changeable.get("/metrics").text
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if line.startswith("punctual_requests_total{"):
            name, _, value = line.partition(" ")
            found[name.split('"')[1]] += round(float(value))
    return found
