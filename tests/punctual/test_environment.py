"""Proxies and certificates of the environment, and what is said where they cannot be used."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loadtest.servers.free_ports import free_port
from punctual import AsyncClient, Client, Unreachable
from punctual.environment import url_and_proxy
from punctual.stream import FrameStream
from tests.serving.fakes import JPEG

URL = "http://127.0.0.1:8000"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("variables", "through"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://me:secret@proxy:3128"}, "proxy:3128"),
        ({"ALL_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, None),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "127.0.0.1"}, None),
    ],
)
def test_the_way_to_a_server_is_told(
    variables: dict[str, str], through: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    way = url_and_proxy(URL)
    assert way == (
        URL if through is None else f"{URL} (through {through}, as HTTP_PROXY and the like say)"
    )


@pytest.mark.parametrize(
    "ask",
    [lambda: Client(URL).detect(JPEG), lambda: FrameStream("door", URL)],
    ids=["request", "stream"],
)
def test_a_proxy_that_does_not_answer_is_named(
    ask: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(Unreachable, match=f"through {proxy}"):
        ask()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_cannot_be_used_is_the_callers_mistake(
    kind: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", "/nowhere")
        with pytest.raises(ValueError, match="SSL_CERT_FILE"):
            kind(URL)
    monkeypatch.setenv("ALL_PROXY", "ftp://proxy")
    with pytest.raises(ValueError, match="proxy"):
        kind(URL)
