"""Keys and the admin port over real sockets."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx

from serving.access.keys import digest_of
from tests.e2e.process import PATIENCE_S, Server, eventually, fake_server, free_port
from tests.serving.fakes import JPEG


def write(path: Path, *names: str, more: str = "") -> None:
    """A file in which the key of each is its name."""
    text = "".join(
        f'[[principal]]\nname = "{name}"\nsha256 = "{digest_of(name.encode())}"\n{more}'
        for name in names
    )
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def status(server: Server, key: str) -> int:
    return server.detect(JPEG, headers={"X-API-Key": key}).status_code


def test_keys_come_and_go_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write(path, "one")
    with fake_server(PUNCTUAL_KEYS_FILE=path) as server:
        assert (status(server, "one"), status(server, "two")) == (200, 401)
        write(path, "two")
        eventually(lambda: status(server, "two") == 200)
        assert status(server, "one") == 401
        path.write_text("[[principal]]\nname = ")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "stay in use" in server.output)
        assert status(server, "two") == 200
        server.terminate()
        assert server.ended() == 0


def test_a_server_says_what_is_wrong_with_its_key_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('[[principal]]\nname = "one"\n')
    with fake_server(wait_ready=False, PUNCTUAL_KEYS_FILE=path) as server:
        assert server.ended() != 0
        assert "principal.0.sha256: Field required" in server.output


def test_metrics_and_documentation_are_at_their_own_port() -> None:
    port = free_port()
    with fake_server(PUNCTUAL_ADMIN_PORT=port) as server:
        admin = f"http://127.0.0.1:{port}"
        for path, of_admins in (("/metrics", True), ("/openapi.json", True), ("/v1/models", False)):
            here = httpx.get(f"{server.url}{path}", timeout=PATIENCE_S).status_code
            there = httpx.get(f"{admin}{path}", timeout=PATIENCE_S).status_code
            assert (here, there) == ((404, 200) if of_admins else (200, 404))
        for url in (server.url, admin):
            assert httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200
        server.terminate()
        assert server.ended() == 0


def test_an_admin_port_that_is_taken_is_named() -> None:
    with fake_server() as other:
        port = other.address[1]
        with fake_server(wait_ready=False, PUNCTUAL_ADMIN_PORT=port) as server:
            assert server.ended() == 1
            assert f"port {port}" in server.output


def test_a_proxy_says_whose_request_it_is() -> None:
    """By default the HTTP server trusts proxies on the same host."""
    with fake_server() as server:
        for host in ("192.0.2.1", "2001:db8::1"):
            answer = server.detect(JPEG, headers={"X-Forwarded-For": host})
            assert answer.status_code == 200
