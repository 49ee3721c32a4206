"""What exporters of metrics share: the gateway exports to Prometheus, Triton on its own page."""

from __future__ import annotations

from serving.core.request import Answered, Cancelled, Failed, Result, Shed

MARGIN_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""From "just in time" to "nearly the whole budget was left"."""

RESULT_NAMES: dict[type[Result], str] = {
    Answered: "answered",
    Shed: "shed",
    Cancelled: "cancelled",
    Failed: "failed",
}
"""How a request left the engine."""
