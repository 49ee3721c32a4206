"""Gauges of a backend, which are read when somebody asks for the metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.core.errors import BackendUnavailable
from serving.core.ports import Backend, Clock

DEMAND_WINDOW_S = 15.0
"""Seconds that a rate of demand is of."""
_DEMAND_SLOT_S = 1.0


class DemandRate:
    """Rate of requests per second over the last ``DEMAND_WINDOW_S``, in whole slots."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_s = clock()
        self._slots: deque[tuple[int, int]] = deque()  # (slot, requests), oldest first

    def add(self) -> None:
        """Count one request that came now."""
        slot = self._now()
        count = self._slots.pop()[1] if self._slots and self._slots[-1][0] == slot else 0
        self._slots.append((slot, count + 1))

    def per_second(self) -> float:
        """Return the rate; before a whole window has passed, over the time since the start."""
        self._now()
        elapsed_s = max(_DEMAND_SLOT_S, self._clock() - self._started_s)
        return sum(count for _, count in self._slots) / min(DEMAND_WINDOW_S, elapsed_s)

    def _now(self) -> int:
        slot = int(self._clock() / _DEMAND_SLOT_S)
        while self._slots and self._slots[0][0] <= slot - DEMAND_WINDOW_S / _DEMAND_SLOT_S:
            self._slots.popleft()
        return slot


class BackendGauges(Collector):
    """Collector of what a backend has now, and of the demand it would need to meet in full."""

    def __init__(self, backend: Backend, demand: DemandRate) -> None:
        self._backend = backend
        self._demand = demand

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: registering must not read a backend that has not started."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield one sample of each gauge."""
        backend = self._backend
        yield GaugeMetricFamily(
            "punctual_ready", "Whether requests would be answered.", float(backend.ready)
        )
        yield GaugeMetricFamily(
            "punctual_waiting_requests", "Requests no segment has run for.", backend.num_waiting
        )
        yield GaugeMetricFamily(
            "punctual_in_flight_requests", "Requests on the device.", backend.num_in_flight
        )
        yield GaugeMetricFamily(
            "punctual_held_requests",
            "Requests with an answer in hand that may have a better one.",
            backend.num_held,
        )
        if backend.ready:
            try:
                best = backend.family.front(backend.predicted_s).points[-1]
            except BackendUnavailable:  # it went just now
                return
            yield GaugeMetricFamily(
                "punctual_full_depth_demand_ratio",
                "Share of the engine's time that the most accurate exit would need for every "
                "request, one by one; "
                "scale out on it, since degradation keeps queues and latency healthy.",
                self._demand.per_second() * best.latency_s / backend.num_instances,
            )
