"""What the sweep makes of replies, and that it sends what it says."""

from __future__ import annotations

import http.server
import json
import threading

import pytest

from loadtest.cli import sweep as cli
from loadtest.load.sweep import (
    SweepClient,
    SweepReply,
    SweptBudget,
    inversions,
    min_budget_ms,
    overhead,
    sweep,
    swept_table,
)
from loadtest.servers.free_ports import free_port
from tests.commands import run_command

TIMING = 'read;dur=0.5, decode;dur=2.0, queue;dur=0.5, engine;dur=20.0;desc="depth=3", total;dur=24'


def answered(latency_ms: float, depth: int) -> SweepReply:
    stages = {"read": 0.5, "decode": 2.0, "queue": 0.5, "engine": 20.0, "total": 24.0}
    return SweepReply(200, latency_ms, {"exit_depth": depth, "expected_ap": depth / 10}, stages)


def refused(status: int, slug: str) -> SweepReply:
    return SweepReply(status, 1.0, {"type": f"urn:punctual:problem:{slug}"}, {})


def test_a_row_judges_by_the_clients_clock():
    row = SweptBudget(30.0, [answered(29, 3), answered(31, 4), refused(503, "overloaded")])
    assert len(row.accepted) == 3
    assert len(row.in_time) == 1
    assert row.expected_aps == [0.3, 0.4]
    assert " 0.300/0.300/0.400 " in swept_table([row])


def test_infeasible_is_not_a_miss():
    row = SweptBudget(5.0, [refused(422, "budget-infeasible")] * 3)
    assert row.accepted == []
    assert "budget-infeasible 3" in swept_table([row])


def test_accuracy_that_falls_is_reported():
    rows = [
        SweptBudget(10, [answered(9, 2)]),
        SweptBudget(20, [answered(9, 1)]),
        SweptBudget(30, [answered(9, 3)]),
    ]
    assert inversions(rows) == [(10, 20)]


def test_overhead_is_what_the_engine_does_not_take():
    text = overhead([SweptBudget(30, [answered(25, 3)])])
    assert text.startswith("gateway without engine 4.00 ")
    assert "reply                1.00" in text
    assert "client and sockets   1.00" in text
    assert overhead([SweptBudget(30, [])]) == "no answers"


class Handler(http.server.BaseHTTPRequestHandler):
    """Refuses budgets below 10 ms, answers the others at depth 3."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._reply(200, {"models": [{"name": "toy", "exits": [{"min_budget_ms": 10.0}]}]})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if float(self.headers["X-Deadline-Ms"]) < 10:
            self._reply(422, {"type": "urn:x:budget-infeasible", "min_budget_ms": 10.0})
        else:
            self._reply(200, {"exit_depth": 3, "expected_ap": 0.3})

    def _reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Server-Timing", TIMING)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def client():
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    client = SweepClient(f"http://127.0.0.1:{server.server_port}")
    yield client
    client.close()
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_budget_is_sent_as_often_as_asked(client):
    assert client.models()["name"] == "toy"
    rows = sweep(client, [b"a", b"b"], [5.0, 1e6], num_requests=4, seed=0)
    assert [len(row.answers) for row in rows] == [4, 4]
    assert [len(row.accepted) for row in rows] == [0, 4]
    assert rows[1].answers[0].stages_ms["engine"] == 20.0
    assert min_budget_ms(client, b"a") == 10.0


def test_other_urls_are_refused():
    with pytest.raises(ValueError, match="http://host:port"):
        SweepClient("https://example.com")


@pytest.mark.parametrize(
    ("image", "code", "problem"),
    [
        ("tests/data/bccd/JPEGImages/BloodImage_00031.jpg", 1, "cannot be reached"),
        ("nowhere.jpg", 2, "nowhere.jpg cannot be read"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(capsys, image, code, problem):
    url = f"http://127.0.0.1:{free_port()}"
    assert run_command(cli.add_parser, "sweep", "--url", url, "--image", image) == code
    told = capsys.readouterr().err
    assert told.startswith("punctual: ")
    assert problem in told
    assert told.count("\n") == 1
