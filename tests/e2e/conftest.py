from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtest.servers.tritonserver import assemble_perf_analyzer, default_folder, server_environment
from tests.e2e.backends import gateway
from tests.e2e.process import PATIENCE_S, Server, fake_server
from tests.e2e.triton import Triton


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server for all tests that leave it as they found it."""
    with fake_server(PUNCTUAL_MAX_BODY_BYTES=1_000_000) as started:
        yield started


@pytest.fixture(scope="session")
def triton(
    tritonserver: None, small_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    """One Triton for all tests that leave it as they found it."""
    server = Triton(small_repository, tmp_path_factory.mktemp("triton") / "log")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def embedded_server(small_repository: Path) -> Iterator[Server]:
    """The gateway with its embedded engine on the same model."""
    with gateway("embedded", small_repository, None) as started:
        yield started


@pytest.fixture(scope="session")
def perf_analyzer(tritonserver: None) -> Callable[..., str]:
    """NVIDIA's load generator: called with a URL (http or grpc) and options, it returns what was
    printed."""
    binary = assemble_perf_analyzer(default_folder())

    def run(url: str, *options: str) -> str:
        protocol, _, address = url.partition("://")
        done = subprocess.run(
            [str(binary), "-i", protocol, "-u", address, *options],
            env=server_environment(default_folder()),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        return output

    return run
