"""The haproxy configuration that the documentation ships, in front of the server."""

from __future__ import annotations

import os
import select
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtest.servers.free_ports import free_port
from loadtest.servers.prometheus import ProgramMissing, find_program
from tests.e2e.process import PATIENCE_S, ROOT, Server, eventually, fake_server, head
from tests.serving.fakes import JPEG
from tests.serving.gateway import slug

CONFIGURATION = ROOT / "docs/guides/haproxy.cfg"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine, and its key, in one file as haproxy reads them."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl")
    folder = tmp_path_factory.mktemp("certificate")
    key, both = folder / "key.pem", folder / "both.pem"
    made = (
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"),
        *("-keyout", str(key), "-out", str(both)),
    )
    subprocess.run([openssl, *made], check=True, capture_output=True)
    both.write_text(both.read_text() + key.read_text())
    return both


@pytest.fixture(scope="module")
def proxied(certificate: Path) -> Iterator[tuple[Server, str]]:
    """A server behind the proxy, and the proxy's URL."""
    try:
        program = find_program("haproxy")
    except ProgramMissing as error:
        pytest.skip(str(error))
    port = free_port()
    with fake_server() as server:
        environment = {
            **os.environ,
            "LISTEN_ADDRESS": f"127.0.0.1:{port}",
            "CERTIFICATE": str(certificate),
            "GATEWAY_ADDRESS": "{}:{}".format(*server.address),
        }
        command = [program, "-db", "-f", str(CONFIGURATION)]
        checked = subprocess.run(
            [*command, "-c"], env=environment, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
        assert "WARNING" not in checked.stderr
        process = subprocess.Popen(command, env=environment)
        try:
            url = f"https://127.0.0.1:{port}"
            with client(url, certificate) as connected:
                eventually(lambda: is_served(connected))
            yield server, url
        finally:
            process.terminate()
            process.wait()


def is_served(connected: httpx.Client) -> bool:
    try:
        return connected.get("/v1/models").status_code == 200
    except httpx.TransportError:
        return False


def client(url: str, certificate: Path) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(certificate))
    return httpx.Client(base_url=url, verify=context, timeout=PATIENCE_S)


def test_what_clients_may_use(proxied: tuple[Server, str], certificate: Path) -> None:
    _, url = proxied
    with client(url, certificate) as connected:
        headers = {"Content-Type": "image/jpeg", "X-Deadline-Ms": "9000"}
        answered = connected.post("/v1/detect", content=JPEG, headers=headers)
        assert answered.status_code == 200
        assert answered.json()["budget_ms"] == 9000
        refused = connected.post("/v1/detect", content=JPEG, headers={"Content-Type": "a/b"})
        assert slug(refused) == "unsupported-image"
        for path in ("/", "/docs", "/openapi.json", "/v2/health/ready"):
            assert connected.get(path).status_code == 200
        for path in ("/metrics", "/livez", "/readyz", "/v1"):
            assert connected.get(path).status_code == 404


def test_bodies_that_are_too_large_never_reach_the_server(
    proxied: tuple[Server, str], certificate: Path
) -> None:
    _, url = proxied
    context = ssl.create_default_context(cafile=str(certificate))
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with (
        socket.create_connection(address, timeout=PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(head("Content-Length: 20000000"))
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_http_2(proxied: tuple[Server, str], certificate: Path, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl")
    _, url = proxied
    image = tmp_path / "photo.jpg"
    image.write_bytes(JPEG)
    headers = ("-H", "Content-Type: image/jpeg", "-H", "X-Deadline-Ms: 9000")
    done = subprocess.run(
        [
            *(curl, "-s", "--http2", "--cacert", str(certificate), *headers, "--data-binary"),
            *(f"@{image}", "-o", str(tmp_path / "reply"), "-w", "%{http_version} %{http_code}"),
            f"{url}/v1/detect",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "2 200"


def test_one_address_has_a_bound_on_connections(
    proxied: tuple[Server, str], certificate: Path
) -> None:
    server, url = proxied
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    connections = [
        socket.create_connection(address, source_address=("127.0.0.9", 0)) for _ in range(100)
    ]
    try:
        with client(url, certificate) as other:
            assert other.get("/v1/models").status_code == 200
        assert server.detect(JPEG).status_code == 200
        # Those beyond the bound are closed, whichever they are; after seconds so are those that say
        # nothing.
        eventually(lambda: len(select.select(connections, [], [], 0)[0]) >= 100 - 64)
    finally:
        for each in connections:
            each.close()
