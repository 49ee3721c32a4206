"""A real Triton over a small model, and what can be done to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from loadtest.servers.free_ports import free_port
from loadtest.servers.tritonserver import (
    Ports,
    assemble,
    default_folder,
    remove_shared_memory,
    server_command,
    server_environment,
)
from tests.e2e.process import PATIENCE_S, eventually


class Triton:
    """The server of ``servers.tritonserver`` on ports of its own, which it keeps over restarts."""

    def __init__(self, repository: Path, log: Path) -> None:
        self.repository = repository
        self.log = log
        self.ports = Ports(free_port(), free_port(), free_port())
        self.process: subprocess.Popen[bytes] | None = None
        self._prefix = f"test-of-punctual-{self.ports.grpc}-"

    @property
    def url(self) -> str:
        """Of its gRPC, as ``PUNCTUAL_TRITON_URL`` wants it."""
        return f"127.0.0.1:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.http}"

    def start(self, *models: str) -> None:
        """Start it with ``models`` (all), and wait until they are there."""
        folder = assemble(default_folder())
        command = server_command(
            folder,
            self.repository,
            self.ports,
            config_name="cpu",
            models=models or ("*",),
            shared_memory_prefix=self._prefix,
        )
        environment = {**server_environment(folder), "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its stub processes are signalled with it
            )
        eventually(self._is_ready)

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.http_url}{path}", timeout=PATIENCE_S)

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-4000:]
        with contextlib.suppress(httpx.TransportError):
            return self._get("/v2/health/ready").status_code == 200
        return False

    def stub_pids(self) -> list[int]:
        """The processes that its Python models run in."""
        assert self.process is not None
        found = subprocess.run(
            ["pgrep", "--parent", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in found.stdout.split()]

    def signal(self, number: int) -> None:
        """Send it, and its stub processes, a signal."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.process.wait()
        remove_shared_memory(self._prefix)

    def unload(self, model: str) -> None:
        """Unload one model, and wait until it is gone."""
        url = f"{self.http_url}/v2/repository/models/{model}/unload"
        httpx.post(url, timeout=PATIENCE_S).raise_for_status()
        eventually(lambda: not self.has(model))

    def load(self, model: str) -> None:
        """Load one model again."""
        url = f"{self.http_url}/v2/repository/models/{model}/load"
        httpx.post(url, timeout=PATIENCE_S).raise_for_status()

    def has(self, model: str) -> bool:
        """Whether ``model`` is ready."""
        return self._get(f"/v2/models/{model}/ready").status_code == 200

    def metrics(self) -> str:
        """What it exports to Prometheus."""
        url = f"http://127.0.0.1:{self.ports.metrics}/metrics"
        return httpx.get(url, timeout=PATIENCE_S).text

    @contextlib.contextmanager
    def stub(self) -> Iterator[GRPCInferenceServiceStub]:
        """Its gRPC methods."""
        with grpc.insecure_channel(self.url) as channel:
            yield GRPCInferenceServiceStub(channel)

    def shared_regions(self) -> list[str]:
        """The shared memory that it has mapped."""
        with self.stub() as stub:
            answer = stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())
        return sorted(answer.regions)


def wait_s(seconds: float) -> None:
    """Let something go on for a while: the length of a fault, not a limit on anything."""
    time.sleep(seconds)
