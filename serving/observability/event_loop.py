"""What the event loop has under way, as a metric."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class EventLoopTasks(Collector):
    """The number of tasks of the event loop in whose thread it is collected; 0 without one."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return the family without samples, so that registering needs no event loop."""
        return (self._family(),)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the one sample."""
        family = self._family()
        try:
            num_tasks = len(asyncio.all_tasks())
        except RuntimeError:  # no loop runs here
            num_tasks = 0
        family.add_metric([], num_tasks)
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "punctual_event_loop_tasks",
            "Tasks of the event loop: a few, and some for each request that is inside.",
        )
