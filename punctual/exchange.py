"""What is sent and what comes back, without the sending: shared by both clients."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict
from urllib.parse import urlsplit

from punctual.images import media_type
from punctual.problems import Problem, UnexpectedReply, read_problem
from punctual.reply import Reply, read_reply

DEFAULT_URL = "http://127.0.0.1:8000"
DETECT_PATH = "/v1/detect"
MODELS_PATH = "/v1/models"
DEADLINE_HEADER = "X-Deadline-Ms"

JITTER = 0.25
"""Largest part by which a wait is longer than the server says: not all are to come back at once."""
MIN_WAIT_S = 0.01
MAX_REPLY_BYTES = 2**22
"""More than the boxes of an image take, and a server's models."""
_SHOWN = 80


class DetectOptions(TypedDict, total=False):
    """What may be asked of an image; what is left out is the server's choice."""

    deadline_ms: float
    """Budget in milliseconds, from the request's head to the reply."""
    min_depth: int
    """Shallowest exit that is worth an answer."""
    max_depth: int
    """Deepest exit that is wanted."""
    score_threshold: float
    """Boxes below it are left out."""
    classes: Iterable[str | int]
    """Only boxes of these classes: names or numbers, or one name."""
    stream: str
    """Name of the stream that the image is a frame of; a newer frame supersedes it."""
    frame: int
    """Number of that frame."""
    track: bool
    """Whether the boxes of a stream's frames are to say which object they are of (``track_id``)."""
    patience_s: float
    """Seconds in which a server that says when to try again is asked again."""


@dataclass(frozen=True)
class PreparedRequest:
    """One detection request, ready to be sent."""

    params: Mapping[str, str]
    headers: Mapping[str, str]
    content: bytes


def query(options: DetectOptions) -> dict[str, str]:
    """Return what the options say in a query string; a deadline has a header of its own."""
    params = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in options.items()
        if name not in ("deadline_ms", "classes", "patience_s") and value is not None
    }
    if (classes := options.get("classes")) is not None:
        # A text is not taken for the names that its letters are.
        names = (classes,) if isinstance(classes, str) else classes
        params["classes"] = ",".join(str(each) for each in names)
    return params


def prepare(image: bytes, options: DetectOptions) -> PreparedRequest:
    """Return the request for the boxes of an image file.

    Raises ValueError for a deadline that is no time.
    """
    headers = {"Content-Type": media_type(image), "Accept": "application/json"}
    if (deadline_ms := options.get("deadline_ms")) is not None:
        headers[DEADLINE_HEADER] = decimal_ms(deadline_ms)
    return PreparedRequest(query(options), headers, image)


def decimal_ms(deadline_ms: float) -> str:
    """Return a budget as the server reads it, to the microsecond.

    Raises ValueError if it is not positive.
    """
    if not 0 < deadline_ms < math.inf:
        raise ValueError(f"deadline_ms must be a positive number of milliseconds: {deadline_ms}")
    return f"{deadline_ms:.3f}".rstrip("0").rstrip(".")


def base_url(url: str) -> str:
    """Return the URL of a server without a slash at its end. Raises ValueError if it is none."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_one = is_complete and parts.port != 0 and url.isprintable()
    except ValueError:  # of a bracket, a port or a label that is none
        is_one = False
    if not is_one:
        raise ValueError(f"{url!r} is not the URL of a server, such as {DEFAULT_URL}")
    return url.rstrip("/")


def key_headers(key: str | None) -> dict[str, str]:
    """Return the headers that show a key. Raises ValueError for what can be no key."""
    if key is None:
        return {}
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError("a key is printable ASCII text in one line")
    return {"Authorization": f"Bearer {key}"}


def read_json(status: int, content: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON object of a reply. Raises the Problem that it is, or UnexpectedReply."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        start = content[:_SHOWN].decode("utf-8", "replace")
        raise UnexpectedReply(f"a reply with status {status} that is no JSON object: {start!r}")
    if status != 200:
        raise read_problem(status, body, headers.get("Retry-After"))
    return body


def read_detections(
    status: int,
    content: bytes,
    headers: Mapping[str, str],
    *,
    round_trip_s: float,
    num_attempts: int,
) -> Reply:
    """Return what a reply to a request says. Raises the Problem that it is, or UnexpectedReply."""
    return read_reply(
        read_json(status, content, headers),
        round_trip_s=round_trip_s,
        server_timing=headers.get("Server-Timing", ""),
        num_attempts=num_attempts,
    )


class BoundedReply:
    """The content of a reply while it arrives."""

    def __init__(self) -> None:
        self.content = bytearray()

    def add(self, piece: bytes) -> None:
        """Take the next piece. Raises UnexpectedReply beyond ``MAX_REPLY_BYTES``."""
        self.content += piece
        if len(self.content) > MAX_REPLY_BYTES:
            raise UnexpectedReply(f"a reply of more than {MAX_REPLY_BYTES} bytes")


class Patience:
    """The seconds that a caller gives a server which says when to try again.

    ``now_s`` is when the first attempt begins. ``draw`` returns numbers from 0 to 1.
    """

    def __init__(
        self, seconds: float, now_s: float, draw: Callable[[], float] = random.random
    ) -> None:
        if not 0 <= seconds < math.inf:
            raise ValueError(f"patience_s must be a number of seconds, not {seconds}")
        self._end_s = now_s + seconds
        self._draw = draw

    def wait_s(self, problem: Problem, now_s: float) -> float:
        """Return how long to wait before the next attempt, in seconds.

        Raises ``problem`` where the server says nothing of another, or it would come too late for
        the caller.
        """
        if problem.retry_after_s is None:
            raise problem
        wait_s = max(MIN_WAIT_S, problem.retry_after_s)
        if now_s + wait_s > self._end_s:
            raise problem
        return min(wait_s * (1 + JITTER * self._draw()), self._end_s - now_s)


class Attempts:
    """The attempts at one detection request, for as long as the caller's patience lasts.

    ``patience_s`` is for options that state none. Raises ValueError of options that can be none.
    """

    def __init__(
        self,
        image: bytes,
        options: DetectOptions,
        patience_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._request = prepare(image, options)
        self._clock = clock
        self._patience = Patience(options.get("patience_s", patience_s), clock())
        self._started_s = 0.0
        self._num_begun = 0
        self.wait_s = 0.0
        """Seconds to wait before the next attempt."""

    def begin(self) -> dict[str, Any]:
        """Begin an attempt; return what is to be sent, by the names that httpx gives it."""
        self._num_begun += 1
        self._started_s = self._clock()
        return {
            "params": self._request.params,
            "headers": self._request.headers,
            "content": self._request.content,
        }

    def read(self, status: int, content: bytes, headers: Mapping[str, str]) -> Reply | None:
        """Return what came of the attempt; None if there is to be another one in ``wait_s``.

        Raises the Problem that it is, or UnexpectedReply.
        """
        now_s = self._clock()
        try:
            return read_detections(
                status,
                content,
                headers,
                round_trip_s=now_s - self._started_s,
                num_attempts=self._num_begun,
            )
        except Problem as problem:
            self.wait_s = self._patience.wait_s(problem, now_s)
            return None
