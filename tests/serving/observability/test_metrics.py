from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from serving.core import segment as segments
from serving.core.catalog import Exit
from serving.core.errors import (
    BudgetInfeasible,
    DeadlineExceeded,
    InvalidImage,
    Overloaded,
    RequestCancelled,
    ServingError,
    ShedReason,
)
from serving.core.family import Family
from serving.core.ports import Observer
from serving.core.request import Answered, Cancelled, Failed, Request, Shed
from serving.observability.metrics import Metrics
from serving.observability.request_record import (
    IN_HAND_ENDS,
    OUTCOMES,
    AnsweredFacts,
    RequestRecord,
)
from tests.serving.fakes import CATALOG, DETECTIONS, FAMILY, FakeBackend, FakeClock, family_of

REQUEST = Request(1, 0.0, 1.0, 1, 3)


class Bench:
    def __init__(self, family: Family = FAMILY) -> None:
        self.clock = FakeClock()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, self.clock)
        self.backend = FakeBackend(self.clock, family=family)
        self.metrics.describe(self.backend, version="1.2", runtime="fake")

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value("punctual_" + name, labels)

    def answers(self, point: str, model: str = "cells") -> float | None:
        """Answers of one operating point; None if it is not there."""
        depth = point.partition("/")[2]
        return self.sample("exit_depth_total", depth=depth, model=model, operating_point=point)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def tree(root: type[ServingError]) -> set[type[ServingError]]:
    return {root}.union(*map(tree, root.__subclasses__()))


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (AnsweredFacts("128x96/3", 3, False, 0.0, 0.0, 0.0, 0.0), "ok"),
        (AnsweredFacts("128x96/1", 1, True, 0.0, 0.0, 0.0, 0.0), "degraded"),
        (BudgetInfeasible("", 1.0), "infeasible"),
        *((Overloaded("", reason), reason.split("-")[0]) for reason in ShedReason),
        (DeadlineExceeded(""), "late"),
        (RequestCancelled(""), "cancelled"),
        (InvalidImage(""), "invalid"),
        (ValueError(), "error"),
        (KeyboardInterrupt(), "error"),
    ],
)
def test_outcomes(bench: Bench, ending: AnsweredFacts | BaseException, outcome: str) -> None:
    bench.metrics.ended_request(RequestRecord(0.1, 0.2, ending))
    counted = {name: bench.sample("requests_total", outcome=name) for name in OUTCOMES}
    assert counted == {name: float(name == outcome) for name in OUTCOMES}
    assert bench.sample("request_duration_seconds_sum") == 0.1
    assert bench.metrics.totals.success.count == (outcome in ("ok", "degraded"))
    assert bench.metrics.totals.fail.count == (outcome not in ("ok", "degraded"))


def test_answers_of_growing_replies_however_they_end(bench: Bench) -> None:
    reply = AnsweredFacts("128x96/3", 3, False, 0.0, 0.0, 0.0, 0.0)
    for ending, num_answers in (
        (reply, None),
        (reply, 3),
        (RequestCancelled(""), 1),
        (BudgetInfeasible("", 1.0), 0),
    ):
        bench.metrics.ended_request(RequestRecord(0.1, 0.2, ending, num_answers))
    assert bench.sample("growing_answers_count") == 3
    assert bench.sample("growing_answers_sum") == 4
    assert bench.sample("growing_answers_bucket", le="0.0") == 1
    assert bench.sample("growing_answers_bucket", le="1.0") == 2


def test_ends_of_answers_in_hand(bench: Bench) -> None:
    for end in (None, "deadline", "better", "deadline"):
        reply = AnsweredFacts("128x96/1", 1, True, 0.0, 0.0, 0.0, 0.0, in_hand=end)
        bench.metrics.ended_request(RequestRecord(0.1, 0.2, reply))
    counted = {end: bench.sample("answers_in_hand_total", end=end) for end in IN_HAND_ENDS}
    assert counted == {"better": 1, "concluded": 0, "deadline": 2}


def test_every_error_has_an_outcome() -> None:
    for kind in tree(ServingError) - {Overloaded, BudgetInfeasible}:
        assert RequestRecord(0, 0, kind("")).outcome in OUTCOMES


def test_labels_exist_before_anything_happens(bench: Bench) -> None:
    assert bench.sample("requests_total", outcome="late") == 0
    assert bench.sample("shed_total", reason="evicted-expired") == 0
    assert bench.answers("128x96/3") == 0
    assert bench.sample("segment_duration_seconds_count", kind="exit") == 0
    assert bench.sample("decode_seconds_count", format="webp") == 0
    assert bench.sample("engine_results_total", result="failed") == 0


def test_margin_and_overrun_are_never_negative(bench: Bench) -> None:
    for duration_s in (0.05, 0.25):
        bench.metrics.ended_request(
            RequestRecord(
                duration_s, 0.1, AnsweredFacts("128x96/2", 2, False, 0.002, 0.01, 0.03, 0.001)
            )
        )
        bench.metrics.ended_request(RequestRecord(duration_s, 0.1, DeadlineExceeded("")))
    assert bench.sample("deadline_margin_seconds_sum") == pytest.approx(0.05)
    assert bench.sample("deadline_overrun_seconds_sum") == pytest.approx(0.15)
    assert bench.answers("128x96/2") == 2
    assert bench.sample("queue_delay_seconds_sum") == pytest.approx(0.02)


def test_exits_by_the_model_that_answered() -> None:
    large = replace(CATALOG, name="large", exits=CATALOG.exits[:2])
    bench = Bench(family_of(CATALOG, large))
    reply = AnsweredFacts("large@128x96/2", 2, False, 0.0, 0.0, 0.0, 0.0, model=1)
    bench.metrics.ended_request(RequestRecord(0.1, 0.2, reply))
    assert bench.answers("large@128x96/2", "large") == 1
    assert bench.answers("cells@128x96/2") == 0
    assert bench.answers("large@128x96/3", "large") is None
    labels = {"version": "1.2", "model": "cells+large", "runtime": "fake"}
    assert bench.sample("build_info", **labels) == 1


def test_depth_as_a_share_of_what_was_allowed(bench: Bench) -> None:
    for depth_ratio in (0.25, 1.0):
        reply = AnsweredFacts("128x96/1", 1, False, 0.0, 0.0, 0.0, 0.0, depth_ratio=depth_ratio)
        bench.metrics.ended_request(RequestRecord(0.1, 0.2, reply))
    bench.metrics.ended_request(RequestRecord(0.1, 0.2, DeadlineExceeded("")))
    assert bench.sample("exit_depth_ratio_count") == 2
    assert bench.sample("exit_depth_ratio_sum") == 1.25
    assert bench.sample("exit_depth_ratio_bucket", le="0.25") == 1


def test_sheds_by_reason(bench: Bench) -> None:
    for reason in ShedReason:
        bench.metrics.ended_request(RequestRecord(0.1, 0.1, Overloaded("", reason)))
    assert [bench.sample("shed_total", reason=reason) for reason in ShedReason] == [1] * len(
        ShedReason
    )


def test_observes_an_executor(bench: Bench) -> None:
    observer: Observer = bench.metrics
    for segment in (segments.STEM, segments.stack(2), segments.head(2), segments.fused_exit(1)):
        observer.ran(segment, 4, 0.010, 0.012)
    observer.ran(segments.STEM, 1, 0.0, 0.012)
    observer.decided(3e-5)
    observer.ended(Answered(REQUEST, DETECTIONS, 2, 0, 0, 0, 0))
    observer.ended(Shed(REQUEST, ShedReason.REJECTED_OVERLOAD, 0, 0))
    observer.ended(Cancelled(REQUEST, 0))
    observer.ended(Failed(REQUEST, ValueError(), 0))
    assert bench.sample("segment_duration_seconds_count", kind="stem") == 2
    assert bench.sample("segment_duration_seconds_sum", kind="stack") == pytest.approx(0.012)
    assert bench.sample("prediction_ratio_sum") == pytest.approx(4 * 1.2)
    assert bench.sample("batch_size_sum") == 17
    assert bench.sample("decision_seconds_count") == 1
    for result in ("answered", "shed", "cancelled", "failed"):
        assert bench.sample("engine_results_total", result=result) == 1


def test_gauges_read_the_backend(bench: Bench) -> None:
    bench.backend.num_waiting, bench.backend.num_in_flight, bench.backend.num_held = 5, 2, 3
    assert bench.sample("waiting_requests") == 5
    assert bench.sample("in_flight_requests") == 2
    assert bench.sample("held_requests") == 3
    assert bench.sample("ready") == 1
    bench.backend.ready = False
    assert bench.sample("ready") == 0
    assert bench.sample("full_depth_demand_ratio") is None


def test_build_info(bench: Bench) -> None:
    assert bench.sample("build_info", version="1.2", model="cells", runtime="fake") == 1


def test_full_depth_demand(bench: Bench) -> None:
    # 60 requests a second that take 30 ms each at full depth: 1.8 engines.
    for _ in range(60 * 30):
        bench.clock.now += 1 / 60
        bench.metrics.demanded()
    assert bench.sample("full_depth_demand_ratio") == pytest.approx(1.8, rel=0.07)
    bench.clock.now += 60
    assert bench.sample("full_depth_demand_ratio") == 0


def test_full_depth_is_the_most_accurate_exit_of_all_models() -> None:
    plain, best = Exit(1, 0.4, 0.6, {}), Exit(2, 0.7, 0.9, {})
    small = replace(CATALOG, exits=(plain, best, Exit(3, 0.7, 0.9, {})))
    large = replace(CATALOG, name="large", exits=(plain, Exit(2, 0.6, 0.8, {})))
    bench = Bench(family_of(small, large))
    for _ in range(100):
        bench.clock.now += 0.02
        bench.metrics.demanded()
    assert bench.sample("full_depth_demand_ratio") == pytest.approx(50 * 0.020, rel=0.02)


def test_full_depth_demand_just_after_the_start(bench: Bench) -> None:
    for _ in range(100):
        bench.clock.now += 0.02
        bench.metrics.demanded()
    assert bench.sample("full_depth_demand_ratio") == pytest.approx(50 * 0.030, rel=0.02)


def test_two_registries_do_not_meet() -> None:
    Bench()
    Bench()


def test_exposition(bench: Bench) -> None:
    body, content_type = bench.metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
