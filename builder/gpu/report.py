"""Figures of ``punctual gpu``, as records and as a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from reporting.files import write_whole
from reporting.markdown import table


@dataclass(frozen=True)
class PathFigures:
    """One depth's latency at one batch size, from images on the device to boxes in host memory.

    Medians; the ratio unit / fused is taken round by round. ``None``: the runtime has no such path.
    """

    batch: int
    depth: int
    fused_ms: float
    unit_ms: float | None = None
    ratio_p10: float | None = None
    ratio_p50: float | None = None
    ratio_p90: float | None = None
    tflops: float = 0.0
    """Arithmetic rate of the fused path in TFLOP/s.

    It counts two operations a multiply-accumulate, convolutions only.
    """
    ceiling_share: float = 0.0
    """Share of the ceiling: ``tflops`` over what a large matrix product reached in the same run."""


@dataclass
class RuntimeFigures:
    """One runtime's figures on one model."""

    runtime: str
    skipped: str | None = None
    """Reason why the runtime was not measured."""
    paths: list[PathFigures] = field(default_factory=list)
    ap: dict[int, float] = field(default_factory=dict)
    """COCO AP of each exit, by depth."""
    ap_skipped: str | None = None


@dataclass
class ModelFigures:
    """One model's figures on every runtime."""

    model: str
    weights: str
    ceiling_tflops: float
    gmacs: dict[int, float]
    """Multiply-accumulates of convolutions by exit, in 10**9 (GMAC)."""
    runtimes: list[RuntimeFigures] = field(default_factory=list)


@dataclass
class GpuReport:
    """Everything that was measured, and on what."""

    machine: str
    versions: Mapping[str, str]
    date: str
    models: list[ModelFigures] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        write_whole(path, json.dumps(asdict(self), indent=2) + "\n")


def with_rate(figures: PathFigures, macs: int, ceiling_tflops: float) -> PathFigures:
    """Return ``figures`` with its arithmetic rate; ``macs`` multiply-accumulates an image."""
    tflops = 2 * macs * figures.batch / (1e-3 * figures.fused_ms) / 1e12
    share = tflops / ceiling_tflops
    return replace(figures, tflops=round(tflops, 2), ceiling_share=round(share, 4))


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _ratio(row: PathFigures) -> str:
    if row.ratio_p50 is None:
        return "-"
    return f"{row.ratio_p50:.3f} ({row.ratio_p10:.3f} .. {row.ratio_p90:.3f})"


COLUMNS: tuple[tuple[str, Callable[[PathFigures], str]], ...] = (
    ("batch", lambda row: str(row.batch)),
    ("exit", lambda row: str(row.depth)),
    ("fused, ms", lambda row: f"{row.fused_ms:.3f}"),
    ("unit, ms", lambda row: _or_dash(row.unit_ms, ".3f")),
    ("unit / fused (p10 .. p90)", _ratio),
    ("TFLOP/s", lambda row: f"{row.tflops:.1f}"),
    ("of ceiling", lambda row: f"{100 * row.ceiling_share:.1f} %"),
)


def markdown(report: GpuReport) -> str:
    """Return the report as a heading and a table for every model and runtime."""
    lines = [f"{report.machine}, {report.date}"]
    lines += [f"{name} {version}" for name, version in report.versions.items()]
    for model in report.models:
        lines += ["", f"## {model.model} ({model.weights})", ""]
        lines.append(f"Half-precision matrix product: {model.ceiling_tflops:.1f} TFLOP/s")
        for runtime in model.runtimes:
            lines += ["", f"### {runtime.runtime}", *_runtime_lines(runtime)]
    return "\n".join(lines) + "\n"


def _runtime_lines(figures: RuntimeFigures) -> Iterable[str]:
    if figures.skipped:
        yield ""
        yield f"Not measured: {figures.skipped}"
        return
    yield from table(COLUMNS, figures.paths)
    if figures.ap:
        yield ""
        yield "AP by exit: " + ", ".join(f"{depth}: {ap:.4f}" for depth, ap in figures.ap.items())
    if figures.ap_skipped:
        yield ""
        yield f"AP not measured: {figures.ap_skipped}"
