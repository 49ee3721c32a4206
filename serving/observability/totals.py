"""Totals of requests since the start, for clients that compare two readings of the statistics."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.observability.request_record import AnsweredFacts, RequestRecord


@dataclass(slots=True)
class Total:
    """Total of one kind of event: how often it happened, and the seconds it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one more event, which took ``seconds``."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Totals:
    """Totals of requests since the start, for clients that compare two readings.

    The stages are those of requests that were answered in time.
    """

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    decode: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    engine: Total = field(default_factory=Total)
    write: Total = field(default_factory=Total)
    last_s: float | None = None
    """Instant when the latest request ended."""

    def add(self, record: RequestRecord, now_s: float) -> None:
        """Count a request that ended."""
        self.last_s = now_s
        match record.ending:
            case AnsweredFacts() as reply:
                self.success.add(record.duration_s)
                self.decode.add(reply.decode_s)
                self.queue.add(reply.queue_s)
                self.engine.add(reply.engine_s)
                self.write.add(reply.write_s)
            case _:
                self.fail.add(record.duration_s)
