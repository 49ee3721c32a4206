"""From start to end of a process: what it answers meanwhile, and how it leaves."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from loadtest.servers.free_ports import free_port
from tests.e2e.process import Server, eventually, fake_server, head, read_reply
from tests.serving.fakes import JPEG
from tests.serving.gateway import slug

SLOW = {"max_depth": 2}
REQUEST = head(f"Content-Length: {len(JPEG)}") + JPEG


def busy(server: Server) -> bool:
    return server.metric("punctual_waiting_requests") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered(number: signal.Signals) -> None:
    with fake_server() as server, ThreadPoolExecutor() as threads:
        in_flight = threads.submit(server.detect, JPEG, params=SLOW)
        eventually(lambda: busy(server))
        server.process.send_signal(number)
        assert in_flight.result().status_code == 200
        assert server.ended() == 0


@contextlib.contextmanager
def draining() -> Iterator[tuple[Server, socket.socket]]:
    """A server that drains for as long as the context lasts, and a connection from before."""
    with fake_server(PUNCTUAL_DRAIN_DELAY_MS=600_000) as server, server.connect() as connection:
        connection.sendall(REQUEST)
        assert read_reply(connection)[0] == 200
        ready = server.get("/readyz")
        assert (ready.status_code, ready.headers.get("connection")) == (200, None)
        server.terminate()
        eventually(lambda: not server.is_ready())
        yield server, connection
        assert server.process.poll() is None


def test_drain() -> None:
    with draining() as (server, connection):
        # Load balancers have not noticed yet: it must go on serving.
        assert server.get("/livez").status_code == 200
        answered = server.detect(JPEG)
        assert (answered.status_code, answered.headers["connection"]) == (200, "close")
        assert server.detect(JPEG, params=SLOW).status_code == 200
        # A balancer of connections leaves those that are open where they are: they are told to go.
        connection.sendall(REQUEST)
        assert read_reply(connection)[0] == 200
        assert connection.recv(1) == b""


def test_it_ends_when_it_has_drained() -> None:
    with fake_server(PUNCTUAL_DRAIN_DELAY_MS=500) as server:
        server.terminate()
        assert server.ended() == 0
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_every_request_sent_during_a_drain_is_accounted_for() -> None:
    """Many connect while the server closes its listening socket: none is reset."""
    clients = 8
    with fake_server(PUNCTUAL_DRAIN_DELAY_MS=500) as server:
        replies: list[int] = []
        started = threading.Event()

        def until_refused() -> None:
            while True:
                try:
                    reply = server.detect(JPEG)
                except httpx.ConnectError:  # it no longer listens: nothing was lost
                    return
                assert reply.status_code == 200 or slug(reply) == "overloaded"
                replies.append(reply.status_code)
                started.set()

        with ThreadPoolExecutor(clients) as threads:
            running = [threads.submit(until_refused) for _ in range(clients)]
            started.wait(60)
            server.terminate()
            for client in running:
                client.result(60)
        assert server.ended() == 0
        assert replies.count(200) > 0


def test_a_connection_that_never_sent_a_request_does_not_hold_up_the_end() -> None:
    with fake_server(PUNCTUAL_DRAIN_DELAY_MS=0) as server, server.connect() as idle:
        server.terminate()
        assert idle.recv(1) == b""
        assert server.ended() == 0


def test_a_second_signal_ends_it_at_once() -> None:
    with fake_server(PUNCTUAL_DRAIN_DELAY_MS=600_000) as server:
        server.terminate()
        eventually(lambda: not server.is_ready())
        server.terminate()
        server.ended()


def test_alive_but_not_ready_while_it_starts() -> None:
    port = free_port()
    with fake_server(wait_ready=False, FAKE_START="never", PUNCTUAL_PORT=port) as server:
        server.url = f"http://127.0.0.1:{port}"

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(server.address) == 0

        eventually(listens)
        with server.client() as client:
            assert client.get("/livez").status_code == 200
            assert slug(client.get("/readyz")) == "backend-unavailable"
            assert slug(client.post("/v1/detect", content=JPEG)) == "backend-unavailable"
        server.terminate()
        assert server.ended() == 0


def test_a_backend_that_does_not_start_ends_the_process() -> None:
    with fake_server(wait_ready=False, FAKE_START="fails") as server:
        assert server.ended() == 1
        assert "the backend did not start: there is no such device" in server.output


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with fake_server(wait_ready=False, PUNCTUAL_PORT=port) as server:
            assert server.ended() != 0
            assert "address already in use" in server.output
