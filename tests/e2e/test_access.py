"""Keys and the admin port over real sockets."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import httpx

from loadtest.servers.free_ports import free_port
from serving.access.keys import digest_of
from tests.e2e.process import PATIENCE_S, Server, eventually, fake_server
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


def test_a_key_file_under_attack(tmp_path: Path) -> None:
    """Whatever comes in its place, those who have a key are served meanwhile."""
    path = tmp_path / "keys.toml"
    write(path, "one")
    with fake_server(PUNCTUAL_KEYS_FILE=path) as server:
        for number, attack in enumerate((_pipe, _folder, _hole, _line), start=1):
            other = tmp_path / "other"
            attack(other)
            path.unlink()
            other.rename(path)
            for _ in range(100):
                server.process.send_signal(signal.SIGHUP)
            eventually(partial(_said, server, "stay in use", number))
            assert (status(server, "one"), status(server, "two")) == (200, 401)
            path.rmdir() if path.is_dir() else path.unlink()
            write(path, "one")
            server.process.send_signal(signal.SIGHUP)
            eventually(partial(_said, server, "1 principals from", number))
        assert "Traceback" not in server.output
        server.terminate()
        assert server.ended() == 0


def _said(server: Server, words: str, times: int) -> bool:
    return server.output.count(words) >= times


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30)


def _line(path: Path) -> None:
    path.write_bytes(b"a" + b".a" * 2**18 + b"=1")


def test_the_port_for_admins_under_attack(tmp_path: Path) -> None:
    path, port = tmp_path / "keys.toml", free_port()
    write(path, "user")
    path.write_text(path.read_text() + _admin("boss"))
    with fake_server(PUNCTUAL_KEYS_FILE=path, PUNCTUAL_ADMIN_PORT=port) as server:

        def asked(method: str, target: str, key: str) -> int:
            with closing(HTTPConnection("127.0.0.1", port, PATIENCE_S)) as connection:
                connection.request(method, target, headers={"X-API-Key": key})
                return connection.getresponse().status

        load = "/v2/repository/models/{}/load"
        names = ("..", "%2e%2e", "%2e%2e%2fcells", "cells%00", "%ff", "cells;x", "a" * 9000)
        for name in names:
            assert asked("POST", load.format(name), "boss") == 404
            assert asked("POST", load.format(name), "user") == 403
        for target in ("/metrics", "/docs", "/openapi.json", "/%6detrics", "/v1/admin/models"):
            statuses = [asked("GET", target, key) for key in ("boss", "user", "nobody")]
            assert statuses == [200, 403, 401]
        for target in ("/metrics/", "//metrics", "/./metrics", "/v1/../metrics", "/metrics%2f"):
            assert asked("GET", target, "boss") == 404
        for method in ("GET", "PUT", "DELETE", "TRACE"):
            assert asked(method, load.format("cells"), "boss") == 405
        assert status(server, "user") == 200
        server.terminate()
        assert server.ended() == 0


def _admin(name: str) -> str:
    digest = digest_of(name.encode())
    return f'[[principal]]\nname = "{name}"\nsha256 = "{digest}"\nadmin = true\n'


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
