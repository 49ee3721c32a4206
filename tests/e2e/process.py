"""A server in a process of its own, and ways to talk to it that a good client would not use."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from loadtest.servers.free_ports import free_port
from tests import trained

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
AMPLE_MS = 50_000.0
"""A budget that is enough where the machine stands still for seconds, or does much else."""
AMPLE: dict[str, Any] = {
    "PUNCTUAL_DEFAULT_BUDGET_MS": AMPLE_MS,
    "PUNCTUAL_MAX_BUDGET_MS": PATIENCE_S * 1e3,
}
"""Settings of a server of which requests that state no budget have that one."""


class Server:
    """``python -m <arguments>`` on a free port, up to the line with its URL."""

    def __init__(self, *arguments: str, wait_ready: bool = True, **environment: Any) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PUNCTUAL_")}
        given = {key: str(value) for key, value in environment.items()}
        port = given.setdefault("PUNCTUAL_PORT", str(free_port()))
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=clean | given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        # A pipe that nobody reads would stop a server that has much to say.
        self._reader = threading.Thread(target=self._read_output, daemon=True)
        try:
            self.url = self._read_url() if wait_ready else f"http://127.0.0.1:{port}"
        except BaseException:
            self._kill()
            raise
        self._reader.start()

    def _read_url(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            found = re.search(r"http://127\.0\.0\.1:[0-9]+$", line.rstrip())
            if found and "Uvicorn" not in line:
                return found[0]
        raise AssertionError(f"the server ended with {self.process.wait()}:\n{self.output}")

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def wait_listening(self) -> None:
        """Wait until it answers, ready or not."""
        eventually(self._is_listening)

    def _is_listening(self) -> bool:
        try:
            return self.get("/livez").status_code == 200
        except httpx.TransportError:
            return False

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill()

    def _kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._reader.ident is not None:  # it was started
            self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S)

    def get(self, path: str) -> httpx.Response:
        """What it answers, on a connection of its own."""
        with self.client() as client:
            return client.get(path)

    def is_ready(self) -> bool:
        """Whether it says so."""
        return self.get("/readyz").status_code == 200

    def detect(self, content: Any, *, headers: Any = None, params: Any = None) -> httpx.Response:
        """One request on a connection of its own."""
        with self.client() as client:
            return client.post(
                "/v1/detect",
                content=content,
                params=params,
                headers={"Content-Type": "image/jpeg", **(headers or {})},
            )

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE_S)

    def metric(self, line: str) -> float:
        """The value of the sample that is written ``line`` in the metrics."""
        text = self.get("/metrics").text
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def peak_memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+([0-9]+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def processor_s(self) -> float:
        """Processor time that it has had, which no other process adds to."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """The exit code, once it has ended by itself."""
        self.process.wait(timeout=PATIENCE_S)
        self._reader.join()
        return self.process.returncode


def fake_server(**environment: Any) -> Server:
    """The server over ``fake_server.Engine``."""
    return Server("tests.e2e.fake_server", **AMPLE | environment)


def trained_server(*options: str) -> Server:
    """The server as users run it, over the trained model, with these further options."""
    model = ("--model-repository", str(trained.REPOSITORY), "--model", trained.MODEL)
    return Server("serving", "serve", *model, *options, **AMPLE)


def arrived(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """The first reply to a hopeless request that was read in time: on a busy machine it may be late
    before it can be refused for its budget."""
    replies: list[httpx.Response] = []

    def came() -> bool:
        replies.append(ask())
        return replies[-1].status_code not in (408, 504)

    eventually(came)
    return replies[-1]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, "it never came true"
        time.sleep(0.01)


def head(*lines: str) -> bytes:
    """The head of a detection request with these further lines."""
    start = ("POST /v1/detect HTTP/1.1", "Host: x", "Content-Type: image/jpeg")
    return "\r\n".join((*start, *lines, "", "")).encode("latin-1")


def read_reply(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of one reply that states its length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    start, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: ([0-9]+)", start)
    assert length is not None
    while len(body) < int(length[1]):
        body += _some(connection)
    return int(start.split()[1]), body


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the server hung up"
    return data
