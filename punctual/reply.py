"""What a server found in one image, and what it took to find it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from punctual.problems import Problem, UnexpectedReply, read_problem

ANSWERED = "answered"
"""Outcome of a frame that has a reply; all others have a problem."""

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the image as a person sees it, its EXIF orientation applied."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One object that was found."""

    box: Box
    score: float
    """Between 0 and 1."""
    label: str
    class_id: int
    """Position of the label among the model's classes."""
    track_id: int | None = None
    """Which object of a stream it is, where ``track`` was asked for and that is known."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a request went, in milliseconds."""

    budget_ms: float
    """The budget that was applied."""
    elapsed_ms: float
    """From the request's head to the reply, by the server's clock."""
    slack_ms: float
    """What was left of the budget."""
    predicted_ms: float
    """What the engine was predicted to take."""
    round_trip_ms: float
    """From the call to the reply, by this machine's clock: the network included."""
    stages_ms: Mapping[str, float]
    """What the server spent on ``read``, ``decode``, ``queue``, ``engine`` and so on, in order."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The boxes of one image, best first, and how they were come by."""

    model: str
    request_id: str
    width: int
    """Pixels of the image, with its EXIF orientation applied."""
    height: int
    detections: tuple[Detection, ...]
    operating_point: str
    """Input size and exit that answered, such as 300x300/1; two, joined by +, of a merged one."""
    exit_depth: int
    max_depth: int
    degraded: bool
    """Whether a better answer was allowed but did not fit."""
    expected_ap: float
    """What this operating point scored on the data that the model was evaluated on."""
    timings: Timings
    num_attempts: int
    """How often it was asked for: more than once where the server said to try again."""
    raw: Mapping[str, Any]
    """The JSON as it came, with what this client does not know."""

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes of all detections."""
        return tuple(found.box for found in self.detections)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all detections."""
        return tuple(found.label for found in self.detections)

    @property
    def scores(self) -> tuple[float, ...]:
        """The scores of all detections."""
        return tuple(found.score for found in self.detections)


def read_reply(
    body: Mapping[str, Any],
    *,
    round_trip_s: float,
    server_timing: str = "",
    num_attempts: int = 1,
) -> Reply:
    """Return the reply in JSON of ``/v1/detect``. Raises UnexpectedReply for any other."""
    try:
        return Reply(
            model=_text(body["model"]),
            request_id=_text(body["request_id"]),
            width=_whole(body["image"]["width"]),
            height=_whole(body["image"]["height"]),
            detections=tuple(_detection(found) for found in body["detections"]),
            operating_point=_text(body["operating_point"]),
            exit_depth=_whole(body["exit_depth"]),
            max_depth=_whole(body["max_depth"]),
            degraded=bool(body["degraded"]),
            expected_ap=_number(body["expected_ap"]),
            timings=Timings(
                budget_ms=_number(body["budget_ms"]),
                elapsed_ms=_number(body["elapsed_ms"]),
                slack_ms=_number(body["slack_ms"]),
                predicted_ms=_number(body["predicted_ms"]),
                round_trip_ms=round(round_trip_s * 1e3, 3),
                stages_ms=read_server_timing(server_timing),
            ),
            num_attempts=num_attempts,
            raw=body,
        )
    except _OF_ANOTHER_SHAPE as error:
        raise UnexpectedReply(f"the reply lacks what one of detection has: {error!r}") from error


_OF_ANOTHER_SHAPE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What comes of JSON that is about something else."""


def _detection(found: Mapping[str, Any]) -> Detection:
    x1, y1, x2, y2 = (_number(corner) for corner in found["box"])
    track_id = found.get("track_id")
    return Detection(
        (x1, y1, x2, y2),
        _number(found["score"]),
        _text(found["label"]),
        _whole(found["class_id"]),
        None if track_id is None else _whole(track_id),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r:.40} is no whole number")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.40} is no number")
    return value


def read_server_timing(header: str) -> dict[str, float]:
    """Return the durations in a ``Server-Timing`` header, in milliseconds by name."""
    stages = {}
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key == "dur":
                try:
                    stages[name] = float(value)
                except ValueError:
                    continue  # a proxy's, not the server's
    return stages


@dataclass(frozen=True, slots=True)
class FrameReply:
    """What a server says of one frame of a stream."""

    frame: int
    """Counted from 1, over the frames that were sent on this connection."""
    outcome: str
    """``answered``, ``superseded`` or another problem's slug."""
    reply: Reply | None = None
    problem: Problem | None = None


def read_frame_reply(text: str | bytes) -> FrameReply:
    """Return what a message of a stream says of a frame. Raises UnexpectedReply for any other."""
    try:
        body = json.loads(text)
        frame, outcome = int(body["frame"]), str(body["outcome"])
        status = int(body.get("status", 0))
    except (*_OF_ANOTHER_SHAPE, RecursionError) as error:
        raise UnexpectedReply(f"a message that is about no frame: {text[:80]!r}") from error
    if outcome == ANSWERED:
        return FrameReply(frame, outcome, reply=read_reply(body, round_trip_s=math.nan))
    return FrameReply(frame, outcome, problem=read_problem(status, body))
