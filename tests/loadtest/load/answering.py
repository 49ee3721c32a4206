"""A server whose replies the test chooses, by what the request's body says."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Answer = Callable[["Handler", bytes], None]

DETECTIONS = [{"box": [10, 20, 30, 60], "score": 0.9, "class_id": 1}]


class Handler(http.server.BaseHTTPRequestHandler):
    """Lets the server's table of answers reply to a POST, by its body."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/v1/models" and self.server.model is not None:
            self.reply(200, {"models": [self.server.model]})
        elif self.path == "/readyz" and self.server.starting:
            self.server.starting -= 1
            self.reply(503, {})
        else:
            self.reply(404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, self.headers, body))
        self.server.answers[body](self, body)

    def reply(self, status: int, content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answers: Mapping[bytes, Answer], model: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.model = model
        self.seen: list[tuple[str, Any, bytes]] = []
        self.starting = 0
        """For so many requests for /readyz it says that it is."""
        self.ending = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def answers(depth: int | None = 3, ap: float | None = 0.5) -> Answer:
    """200 with DETECTIONS."""
    facts = {"exit_depth": depth, "expected_ap": ap}
    known = {name: value for name, value in facts.items() if value is not None}
    return lambda handler, _: handler.reply(200, {"detections": DETECTIONS, **known})


def replies(status: int, content: Any) -> Answer:
    return lambda handler, _: handler.reply(status, content)


def hangs_up(handler: Handler, _: bytes) -> None:
    handler.close_connection = True


def is_silent(handler: Handler, _: bytes) -> None:
    handler.server.ending.wait()
    handler.close_connection = True


@contextlib.contextmanager
def serving(answers: Mapping[bytes, Answer], model: Any = None) -> Iterator[Server]:
    with Server(answers, model) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.ending.set()
            server.shutdown()
            thread.join()
