"""From start to end of a process: what it answers meanwhile, and how it leaves."""

from __future__ import annotations

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.process import Server, eventually, fake_server, free_port, head, read_reply
from tests.serving.fakes import JPEG
from tests.serving.gateway import slug

SLOW = {"max_depth": 2}


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


def test_drain() -> None:
    with fake_server(PUNCTUAL_DRAIN_DELAY_MS=3000) as server, ThreadPoolExecutor() as threads:
        with server.client() as client:
            ready = client.get("/readyz")
            assert (ready.status_code, ready.headers.get("connection")) == (200, None)
            server.terminate()
            eventually(lambda: client.get("/readyz").status_code == 503)
            # Load balancers have not noticed yet: it must go on serving.
            assert client.get("/livez").status_code == 200
            answered = server.detect(JPEG)
            assert (answered.status_code, answered.headers["connection"]) == (200, "close")
            in_flight = threads.submit(server.detect, JPEG, params=SLOW)
            assert in_flight.result().status_code == 200
        assert server.ended() == 0
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_clients_that_keep_their_connections_are_told_to_go() -> None:
    """A balancer of connections leaves those that are open where they are."""
    with fake_server(PUNCTUAL_DRAIN_DELAY_MS=3000) as server, server.connect() as connection:
        request = head(f"Content-Length: {len(JPEG)}") + JPEG
        connection.sendall(request)
        assert read_reply(connection)[0] == 200
        server.terminate()
        with server.client() as client:
            eventually(lambda: client.get("/readyz").status_code == 503)
        connection.sendall(request)
        assert read_reply(connection)[0] == 200
        assert connection.recv(1) == b""  # long before the drain ends
        assert server.process.poll() is None
        assert server.ended() == 0


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
        with server.client() as client:
            eventually(lambda: client.get("/readyz").status_code == 503)
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
