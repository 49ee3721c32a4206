"""What clients read of a reply that streams: a strict parser of both kinds of stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True)
class Event:
    """One event. ``number`` is its id, which only server-sent events have."""

    name: str
    data: dict[str, Any]
    number: int | None = None


def read_events(media_type: str, lines: Iterable[str]) -> Iterator[Event]:
    """The events in ``lines``, each as soon as it is whole."""
    return {SSE: _server_sent, NDJSON: _lines}[media_type](lines)


def _server_sent(lines: Iterable[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, separator, value = line.partition(": ")
            assert separator
            assert name in ("event", "id", "data")
            assert name not in fields
            fields[name] = value
        else:
            number = int(fields["id"]) if "id" in fields else None
            yield Event(fields["event"], json.loads(fields["data"]), number)
            fields = {}
    assert not fields, "the last event is not whole"


def _lines(lines: Iterable[str]) -> Iterator[Event]:
    for line in lines:
        data = json.loads(line)
        yield Event(data.pop("event"), data)
