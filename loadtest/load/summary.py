"""The figures of a load test: counts that add up, latencies, accuracy, and whether it is valid.

    attainment            answered in time / all that were to be sent
    goodput               answered in time, a second of the schedule
    in-time accuracy      expected AP summed over the answers in time / all that were to be sent
    served AP             computed from the boxes that came back (``served_accuracy``), if it is
                          known what was in the images

Latencies count from the scheduled moment and are those of answers, in time or late: a refusal is
quick, and would make an overloaded server look so too.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.load.open_loop import LoadResult
from loadtest.load.outcomes import Outcome, RequestOutcome
from loadtest.load.served_accuracy import Evaluator, ServedAp
from loadtest.workload.images import NOTHING, ServedDetections
from reporting.machine import machine
from serving.core.command_errors import InvalidArgument
from serving.core.quantiles import quantile

MAX_LAG_S = 0.005
"""Seconds that the 99th percentile of a valid run's lags may have. A client later than that
measures itself."""
MAX_CLASSES = 8
"""Largest number of distinct budgets that are told apart.

More are a continuum, and are put into as many classes.
"""


@dataclass(frozen=True, slots=True)
class LatencyQuantiles:
    """Quantiles of latencies, in milliseconds."""

    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values_s: Iterable[float]) -> LatencyQuantiles | None:
        """Compute the quantiles of latencies in seconds; None if there are none."""
        ordered = sorted(values_s)
        if not ordered:
            return None
        return cls(*(1e3 * quantile(ordered, q) for q in (0.5, 0.9, 0.99, 1.0)))


@dataclass(frozen=True, slots=True)
class BudgetClass:
    """The requests of one budget, or of budgets between two."""

    least_ms: float
    most_ms: float
    count: int
    outcomes: Mapping[str, int]
    """Outcome -> number of requests; each outcome is there."""
    latency_ms: LatencyQuantiles | None
    mean_depth: float | None
    """Mean exit depth of the answers in time; None if none says its depth."""
    in_time_accuracy: float | None
    served_with_misses: ServedAp | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run. Shares are of all requests that were to be sent."""

    target: str
    url: str
    model: str
    machine: str
    started: str
    arrivals: str
    trace_digest: str | None
    schedule_digest: str
    """Digest of the schedule: the same for the same requests at the same times."""
    budgets: str
    full_depth_ms: float
    seed: int
    duration_s: float
    num_pictures: int

    is_valid: bool
    invalid_because: tuple[str, ...]
    lag_ms: LatencyQuantiles
    """Quantiles over all requests of how much later than scheduled they were sent."""
    cpu_us_per_request: float
    """Microseconds of processor time that the client took per request.

    Waiting and parsing are included.
    """
    is_real_time: bool
    """Whether the client's system let it run as soon as it was due."""
    peak_connections: int

    count: int
    outcomes: Mapping[str, int]
    """Outcome -> number of requests; they add up to ``count``."""
    reasons: Mapping[str, Mapping[str, int]]
    """Outcome -> reason -> number of requests, of those that were not answered."""
    attainment: float
    target_hz: float
    achieved_hz: float
    """Requests sent per second, over the time that sending took."""
    goodput_hz: float
    latency_ms: LatencyQuantiles | None
    depths: Mapping[int, int]
    """Exit depth -> number of answers in time, of those that say their depth."""
    points: Mapping[str, int]
    """Operating point, or exit of replies that name none -> number of answers in time."""
    mean_depth: float | None
    expected_ap: float | None
    """Mean expected AP of the answers in time."""
    in_time_accuracy: float | None
    served_in_time: ServedAp | None
    served_with_misses: ServedAp | None
    by_budget: tuple[BudgetClass, ...]


def summarise(result: LoadResult) -> Summary:
    """Compute a run's figures.

    Raises ValueError if the images' annotations do not fit the model's classes.
    """
    settings, outcomes = result.settings, result.outcomes
    evaluation = _Evaluation(result)
    with_misses = evaluation.with_misses(outcomes)  # first: it meets every answer there is
    counts = _counts(outcomes)
    in_time = [request for request in outcomes if request.outcome is Outcome.IN_TIME]
    sent = [request for request in outcomes if request.outcome is not Outcome.UNSENT]
    lag_ms = LatencyQuantiles.of(request.lag_s for request in outcomes)
    assert lag_ms is not None  # a schedule is never empty
    invalid_because = _invalid_because(lag_ms, counts)
    server = result.server or {}
    sending_s = max([settings.duration_s, *(request.sent_s for request in sent)])
    return Summary(
        target=settings.target.name,
        url=settings.url,
        model=" ".join(str(server[key]) for key in ("name", "version") if key in server),
        machine=machine(),
        started=result.started,
        arrivals=settings.arrivals.name,
        trace_digest=settings.arrivals.digest,
        schedule_digest=result.schedule.digest,
        budgets=settings.budgets.name,
        full_depth_ms=1e3 * settings.full_depth_s,
        seed=settings.seed,
        duration_s=settings.duration_s,
        num_pictures=len(settings.images),
        is_valid=not invalid_because,
        invalid_because=invalid_because,
        lag_ms=lag_ms,
        cpu_us_per_request=1e6 * result.cpu_s / len(outcomes),
        is_real_time=result.is_real_time,
        peak_connections=result.peak_connections,
        count=len(outcomes),
        outcomes=counts,
        reasons=_reasons(outcomes),
        attainment=len(in_time) / len(outcomes),
        target_hz=settings.rate_hz,
        achieved_hz=len(sent) / sending_s,
        goodput_hz=len(in_time) / settings.duration_s,
        latency_ms=LatencyQuantiles.of(
            request.latency_s for request in outcomes if request.is_answer
        ),
        depths=dict(sorted(Counter(_depths(in_time)).items())),
        points=_points(in_time),
        mean_depth=_mean(_depths(in_time)),
        expected_ap=_mean(_aps(in_time)),
        in_time_accuracy=_in_time_accuracy(outcomes),
        served_in_time=evaluation.in_time(outcomes),
        served_with_misses=with_misses,
        by_budget=tuple(_budget_classes(outcomes, evaluation)),
    )


def _invalid_because(lag_ms: LatencyQuantiles, counts: Mapping[str, int]) -> tuple[str, ...]:
    reasons = []
    if lag_ms.p99 > 1e3 * MAX_LAG_S:
        reasons.append(
            f"1 % of the requests were sent more than {lag_ms.p99:.1f} ms late "
            f"({1e3 * MAX_LAG_S:.0f} ms are allowed): the client could not keep up"
        )
    unsent = counts[Outcome.UNSENT]
    if unsent:
        reasons.append(f"{unsent} requests could not be sent at all")
    return tuple(reasons)


# -- counting ------------------------------------------------------------------------------------


def _counts(outcomes: Sequence[RequestOutcome]) -> dict[str, int]:
    counts = Counter(request.outcome for request in outcomes)
    return {outcome.value: counts[outcome] for outcome in Outcome}


def _reasons(outcomes: Sequence[RequestOutcome]) -> dict[str, dict[str, int]]:
    counts = Counter(
        (request.outcome, request.reason) for request in outcomes if not request.is_answer
    )
    reasons: dict[str, dict[str, int]] = {}
    for (outcome, reason), count in counts.most_common():
        reasons.setdefault(outcome.value, {})[reason] = count
    return reasons


def _depths(outcomes: Iterable[RequestOutcome]) -> list[int]:
    return [request.depth for request in outcomes if request.depth is not None]


def _points(outcomes: Iterable[RequestOutcome]) -> dict[str, int]:
    counts = Counter(request.point for request in outcomes)
    named = [point for point in counts if point is not None]
    return {point: counts[point] for point in sorted(named, key=by_number)}


def by_number(point: str) -> list[int]:
    """Return the numbers in the name of an operating point, or of an exit, to sort it by."""
    return [int(digits) for digits in re.findall(r"\d+", point)]


def _aps(outcomes: Iterable[RequestOutcome]) -> list[float]:
    return [request.expected_ap for request in outcomes if request.expected_ap is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _in_time_accuracy(outcomes: Sequence[RequestOutcome]) -> float | None:
    """Return the in-time accuracy; None if an answer in time does not say its expected AP."""
    in_time = [request for request in outcomes if request.outcome is Outcome.IN_TIME]
    aps = _aps(in_time)
    return sum(aps) / len(outcomes) if len(aps) == len(in_time) else None


def _budget_classes(
    outcomes: Sequence[RequestOutcome], evaluation: _Evaluation
) -> Iterable[BudgetClass]:
    ordered = sorted(outcomes, key=lambda request: request.budget_s)
    groups = [
        list(group) for _, group in itertools.groupby(ordered, lambda request: request.budget_s)
    ]
    if len(groups) > MAX_CLASSES:
        edges = [len(ordered) * i // MAX_CLASSES for i in range(MAX_CLASSES + 1)]
        groups = [ordered[start:end] for start, end in itertools.pairwise(edges) if start < end]
    for group in groups:
        yield BudgetClass(
            least_ms=1e3 * group[0].budget_s,
            most_ms=1e3 * group[-1].budget_s,
            count=len(group),
            outcomes=_counts(group),
            latency_ms=LatencyQuantiles.of(
                request.latency_s for request in group if request.is_answer
            ),
            mean_depth=_mean(
                _depths(request for request in group if request.outcome is Outcome.IN_TIME)
            ),
            in_time_accuracy=_in_time_accuracy(group),
            served_with_misses=evaluation.with_misses(group),
        )


class _Evaluation:
    """Served AP of any outcomes of a run; None where it is not known what is in the images."""

    def __init__(self, result: LoadResult) -> None:
        settings = result.settings
        self._evaluator = None
        if any(image.objects is not None for image in settings.images):
            if not settings.classes:
                raise InvalidArgument("the model's classes are not known, so AP cannot be computed")
            self._evaluator = Evaluator(settings.images, settings.classes)

    def in_time(self, outcomes: Sequence[RequestOutcome]) -> ServedAp | None:
        return self._ap(request for request in outcomes if request.outcome is Outcome.IN_TIME)

    def with_misses(self, outcomes: Sequence[RequestOutcome]) -> ServedAp | None:
        return self._ap(outcomes)

    def _ap(self, outcomes: Iterable[RequestOutcome]) -> ServedAp | None:
        if self._evaluator is None:
            return None
        return self._evaluator.ap((request.image, _found_in_time(request)) for request in outcomes)


def _found_in_time(request: RequestOutcome) -> ServedDetections:
    if request.outcome is Outcome.IN_TIME and request.detections is not None:
        return request.detections
    return NOTHING
