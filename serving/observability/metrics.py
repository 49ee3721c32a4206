"""Metrics of the server, in one class with the registry injected.

Two sources report facts: the gateway, once for each request (``ended_request``), and the executor,
as it goes (``core.ports.Observer``). A client that left and a request that was shed never share a
label; every label value is known beforehand and exported from the start, at zero.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.exposition import choose_encoder

from serving.core.errors import (
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    ServingError,
    ShedReason,
    TooManyRequests,
    Unauthenticated,
)
from serving.core.observing import FAULTS, MARGIN_BUCKETS_S, RESULT_NAMES
from serving.core.ports import Backend, Clock
from serving.core.request import Result
from serving.core.segment import Segment
from serving.core.token_bucket import TokenBucket
from serving.observability.backend_gauges import BackendGauges, DemandRate
from serving.observability.event_loop import EventLoopTasks
from serving.observability.processor_time import DECODE, ProcessorTime
from serving.observability.request_record import (
    IN_HAND_ENDS,
    OUTCOMES,
    AnsweredFacts,
    RequestRecord,
)
from serving.observability.totals import Totals
from serving.observability.version_metrics import VersionMetrics

# 5 ms .. 10 s, at most a factor of 1.5 apart where budgets usually lie (20 .. 300 ms).
REQUEST_BUCKETS = (
    *(0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3),
    *(0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0),
)
# 0.2 ms .. 500 ms: one segment on a GPU .. a large batch through a fused one on a small CPU.
SEGMENT_BUCKETS = (
    *(0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5),
)
# 0.5 ms .. 500 ms: a thumbnail .. a PNG of the largest size.
DECODE_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
# 10 us .. 5 ms around the 100 us that a decision may take.
DECISION_BUCKETS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3)
# Actual over predicted. Predictions are a high quantile, so a good model is mostly below 1.
RATIO_BUCKETS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
# Eighths: models have some seven exits.
DEPTH_RATIO_BUCKETS = tuple(eighth / 8 for eighth in range(1, 9))
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)

# None, or one of each exit: most models have at most seven.
ANSWER_BUCKETS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16)

EXPOSITION_SHARE = 0.1
"""Share of the event loop that writing the metrics may take for long."""
EXPOSITION_BURST_S = 1.0
"""Seconds of writing them that may come at once: a hundred readings and more."""

UNREAD = "unread"
"""Why a connection is ended whose client does not read its replies."""
CONNECTION_REFUSALS = (
    *("head-timeout", "head-too-large", "invalid-request", "overloaded", "unserved-version"),
    UNREAD,
)
"""Reasons why a connection is ended, or a call over gRPC refused, without a detection request."""

REFUSALS = tuple(kind.slug for kind in (Unauthenticated, Forbidden, TooManyRequests))
"""Slugs of what a request is not let in for."""
_KINDS = ("stem", "stack", "head", "exit")


class Metrics:
    """Metrics of one server.

    They are thread-safe where the executor calls them; the rest belongs to the event loop.
    """

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self.registry = registry
        self.totals = Totals()
        self._clock = clock
        self._demand = DemandRate(clock)
        self._exposition_time = TokenBucket(EXPOSITION_SHARE, EXPOSITION_BURST_S, clock())
        self._pages: dict[str, bytes] = {}  # by content type: there are a few

        def counter(name: str, text: str, label: str, values: Iterable[str]) -> dict[str, Counter]:
            metric = Counter(name, text, [label], namespace="punctual", registry=registry)
            return {value: metric.labels(value) for value in values}

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, namespace="punctual", registry=registry, buckets=buckets)

        self._requests = counter(
            "requests", "Detection requests by how they ended.", "outcome", OUTCOMES
        )
        self._principals = Counter(
            "principal_requests",
            "Detection requests by who sent them, and how they ended.",
            ["principal", "outcome"],
            namespace="punctual",
            registry=registry,
        )
        self._of_principals: dict[str, dict[str, Counter]] = {}
        self._refusals = counter(
            "refused",
            "Requests of any kind that were not let in: without a key, without the right, or "
            "beyond a rate.",
            "problem",
            REFUSALS,
        )
        self._sheds = counter("shed", "Requests shed, by reason.", "reason", ShedReason)
        self._connection_refusals = counter(
            "connection_refusals",
            "Connections that were refused or ended for what they sent or did not read, by reason.",
            "reason",
            CONNECTION_REFUSALS,
        )
        self._results = counter(
            "engine_results", "Requests that left the engine.", "result", RESULT_NAMES.values()
        )
        self._faults = counter(
            "engine_faults",
            "Failures inside the engine, by what failed; how their requests ended is counted with "
            "the others.",
            "kind",
            FAULTS,
        )
        self._exits = Counter(
            "exit_depth",
            "Answers by the depth they left at, whose exit that is, and at which input size.",
            ["depth", "model", "operating_point"],
            namespace="punctual",
            registry=registry,
        )
        self._points: dict[tuple[int, int], Counter] = {}  # by model and depth, once described
        self._depth_ratio = histogram(
            "exit_depth_ratio",
            "Place of an answer's operating point among those that its request allowed, by input "
            "size, then depth, over their number.",
            DEPTH_RATIO_BUCKETS,
        )
        self._duration = histogram(
            "request_duration_seconds",
            "From the request's head to its reply, however it ended.",
            REQUEST_BUCKETS,
        )
        self._margin = histogram(
            "deadline_margin_seconds", "Budget left when answered in time.", MARGIN_BUCKETS_S
        )
        self._overrun = histogram(
            "deadline_overrun_seconds", "Time past the deadline when late.", MARGIN_BUCKETS_S
        )
        self._queue = histogram(
            "queue_delay_seconds",
            "Time an answered request spent in the backend while none of its segments ran.",
            MARGIN_BUCKETS_S,
        )
        self._answers = histogram(
            "growing_answers",
            "Answers sent to one request whose reply streams, however it ended.",
            ANSWER_BUCKETS,
        )
        self._in_hand = counter(
            "answers_in_hand",
            "Answered requests that had an answer in hand before: whether a better one came, or it "
            "was sent, since none was to follow or the deadline came first.",
            "end",
            IN_HAND_ENDS,
        )
        segments = Histogram(
            "segment_duration_seconds",
            "Runs of one segment with what it takes to decide on and hand over, by kind.",
            ["kind"],
            namespace="punctual",
            registry=registry,
            buckets=SEGMENT_BUCKETS,
        )
        self._segments = {kind: segments.labels(kind) for kind in _KINDS}
        self._prediction = histogram(
            "prediction_ratio", "Actual over predicted time of a segment.", RATIO_BUCKETS
        )
        self._batch = histogram("batch_size", "Images in one run of a segment.", BATCH_BUCKETS)
        self._decision = histogram(
            "decision_seconds", "Time the policy took to decide.", DECISION_BUCKETS
        )
        decodes = Histogram(
            "decode_seconds",
            "Decoding and letterboxing of one image.",
            ["format"],
            namespace="punctual",
            registry=registry,
            buckets=DECODE_BUCKETS,
        )
        self._decodes = {name: decodes.labels(name) for name in ("jpeg", "png", "webp", "raw")}
        self.versions = VersionMetrics(registry)
        self.processor_time = ProcessorTime()
        registry.register(self.processor_time)
        registry.register(EventLoopTasks())

    def describe(self, backend: Backend, *, version: str, runtime: str) -> None:
        """Export what is being served, and from now on read ``backend``'s gauges."""
        Info("build", "What is running.", namespace="punctual", registry=self.registry).info(
            {"version": version, "model": backend.family.name, "runtime": runtime}
        )
        family = backend.family
        self._points = {
            (model, depth): self._exits.labels(
                str(depth), family.names[model], family.label(model, depth)
            )
            for model, depth in family.ladder.points
        }
        self.registry.register(BackendGauges(backend, self._demand))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type, in the format that ``accept`` asks for.

        Those who ask too often are given the latest ones again: to write them takes milliseconds of
        the event loop, of which this has no more than ``EXPOSITION_SHARE`` for long.
        """
        encode, content_type = choose_encoder(accept)
        started_s = self._clock()
        page = self._pages.get(content_type)
        if page is None or self._exposition_time.wait_s(started_s) <= 0.0:
            page = self._pages[content_type] = encode(self.registry)
            ended_s = self._clock()
            self._exposition_time.take(ended_s, ended_s - started_s)
        return page, content_type

    def name_principals(self, labels: Collection[str]) -> None:
        """Export series for these principals, at zero where they are new, and for no others."""
        for gone in self._of_principals.keys() - set(labels):
            for outcome in OUTCOMES:
                self._principals.remove(gone, outcome)
            del self._of_principals[gone]
        for label in labels:
            if label not in self._of_principals:
                self._of_principals[label] = {
                    outcome: self._principals.labels(label, outcome) for outcome in OUTCOMES
                }

    # ---- facts from the gateway -----------------------------------------------------------------

    def refused(self, error: ServingError) -> None:
        """Count a request that was not let in."""
        self._refusals[error.slug].inc()

    def demanded(self) -> None:
        """Count a request that an idle server could answer, as far as was looked."""
        self._demand.add()

    def refused_connection(self, reason: str) -> None:
        """Record that a connection was ended for one of ``CONNECTION_REFUSALS``."""
        self._connection_refusals[reason].inc()

    def decoded(self, image_format: str, seconds: float) -> None:
        """Record that an image was decoded."""
        self._decodes[image_format].observe(seconds)

    def decoding(self, processor_s: float) -> None:
        """Record processor time of a thread that decodes, with what it does around that."""
        self.processor_time.add(DECODE, processor_s)

    def ended_request(self, record: RequestRecord) -> None:
        """Record that a request ended; called exactly once for each."""
        self.totals.add(record, self._clock())
        self._requests[record.outcome].inc()
        if (of_principal := self._of_principals.get(record.principal)) is not None:
            of_principal[record.outcome].inc()
        self._duration.observe(record.duration_s)
        if record.num_answers is not None:
            self._answers.observe(record.num_answers)
        match record.ending:
            case AnsweredFacts() as reply:
                self._points[reply.model, reply.depth].inc()
                self._depth_ratio.observe(reply.depth_ratio)
                self._margin.observe(max(0.0, record.budget_s - record.duration_s))
                self._queue.observe(reply.queue_s)
                if reply.in_hand is not None:
                    self._in_hand[reply.in_hand].inc()
            case DeadlineExceeded():
                self._overrun.observe(max(0.0, record.duration_s - record.budget_s))
            case Overloaded(reason=reason):
                self._sheds[reason].inc()
            case _:
                pass

    # ---- facts from the executor (core.ports.Observer) ------------------------------------------

    def ran(self, segment: Segment, batch: int, predicted_s: float, seconds: float) -> None:
        """Record that a segment ran."""
        self._segments[segment.kind].observe(seconds)
        self._batch.observe(batch)
        if predicted_s > 0:
            self._prediction.observe(seconds / predicted_s)

    def decided(self, seconds: float) -> None:
        """Record that the policy was asked, and took this long."""
        self._decision.observe(seconds)

    def spent(self, part: str, processor_s: float) -> None:
        """Record processor time of the executor's thread outside the runs of segments."""
        self.processor_time.add(part, processor_s)

    def ended(self, result: Result) -> None:
        """Record that a request left the executor."""
        self._results[RESULT_NAMES[type(result)]].inc()

    def failed(self, kind: str) -> None:
        """Record a failure inside the engine."""
        self._faults[kind].inc()
