"""``punctual gpu``: what an NVIDIA GPU makes of the models, as one JSON file and a table.

    for each model:   ceiling -> each runtime: paths by batch and exit, accuracy -> torch by itself
                         '-------------- written to the file after every step ---------------'

Light to import, as the other commands are: torch comes with ``gpu_measure``, when the command runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.config import CONFIGS

if TYPE_CHECKING:
    from serving.core.ports import ServingTools

RUNTIMES = ("torch", "tensorrt")
BATCHES = (1, 4, 8)


@dataclass(frozen=True)
class PathFigures:
    """Leaving at one depth, from images on the device to boxes in host memory. Medians; the ratio
    unit / fused is taken round by round. ``None``: the runtime has no such path."""

    batch: int
    depth: int
    fused_ms: float
    unit_ms: float | None = None
    ratio_p10: float | None = None
    ratio_p50: float | None = None
    ratio_p90: float | None = None
    tflops: float = 0.0
    """Of the fused path: two operations a multiply-accumulate, convolutions only."""
    ceiling_share: float = 0.0
    """``tflops`` over what a large matrix product reached in the same run."""


@dataclass
class RuntimeFigures:
    """One runtime on one model."""

    runtime: str
    skipped: str | None = None
    """Why it was not measured."""
    paths: list[PathFigures] = field(default_factory=list)
    ap: dict[int, float] = field(default_factory=dict)
    """COCO AP by exit."""
    ap_skipped: str | None = None


@dataclass
class ModelFigures:
    """One model on every runtime."""

    model: str
    weights: str
    ceiling_tflops: float
    gmacs: dict[int, float]
    """Of convolutions, by exit."""
    runtimes: list[RuntimeFigures] = field(default_factory=list)


@dataclass
class Report:
    """Everything that was measured, and on what."""

    machine: str
    versions: Mapping[str, str]
    date: str
    models: list[ModelFigures] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(path)


def with_rate(figures: PathFigures, macs: int, ceiling_tflops: float) -> PathFigures:
    """``figures`` with its arithmetic rate; ``macs`` multiply-accumulates an image."""
    tflops = 2 * macs * figures.batch / (1e-3 * figures.fused_ms) / 1e12
    rates = {"tflops": round(tflops, 2), "ceiling_share": round(tflops / ceiling_tflops, 4)}
    return PathFigures(**{**asdict(figures), **rates})


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


def markdown(report: Report) -> str:
    """The report as a heading and a table for every model and runtime."""
    lines = [f"{report.machine}, {report.date}"]
    lines += [f"{name} {version}" for name, version in report.versions.items()]
    for model in report.models:
        lines += ["", f"## {model.model} ({model.weights})", ""]
        lines.append(f"Half-precision matrix product: {model.ceiling_tflops:.1f} TFLOP/s")
        for runtime in model.runtimes:
            lines += ["", f"### {runtime.runtime}", "", *_runtime_lines(runtime)]
    return "\n".join(lines) + "\n"


def _runtime_lines(figures: RuntimeFigures) -> Iterable[str]:
    if figures.skipped:
        yield f"Not measured: {figures.skipped}"
        return
    yield "| " + " | ".join(name for name, _ in COLUMNS) + " |"
    yield "|" + "---|" * len(COLUMNS)
    for row in figures.paths:
        yield "| " + " | ".join(cell(row) for _, cell in COLUMNS) + " |"
    if figures.ap:
        yield ""
        yield "AP by exit: " + ", ".join(f"{depth}: {ap:.4f}" for depth, ap in figures.ap.items())
    if figures.ap_skipped:
        yield ""
        yield f"AP not measured: {figures.ap_skipped}"


# -- the command -----------------------------------------------------------------------------------


def add_parser(commands: Any, tools: ServingTools) -> None:
    """Add ``gpu`` to the subparsers ``commands``."""
    summary = "Measure models on an NVIDIA GPU."
    parser: argparse.ArgumentParser = commands.add_parser(
        "gpu",
        help=summary,
        description=f"{summary} Milliseconds by exit and batch of unit segments and fused exits, "
        "their ratio, the share of the GPU's matrix ceiling, and accuracy where there is a data "
        "set, through the runners that serve. OUT is written after every step.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model-repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--model", nargs="*", default=["bccd"], help="models in the repository")
    parser.add_argument(
        "--config", nargs="*", default=[], choices=sorted(CONFIGS), help="with random weights"
    )
    parser.add_argument("--runtime", nargs="*", default=list(RUNTIMES), choices=RUNTIMES)
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--depth", type=int, nargs="+", help="exits to leave at [all]")
    parser.add_argument("--rounds", type=int, default=100, help="of every path")
    parser.add_argument(
        "--framework",
        nargs="*",
        default=["eager"],
        choices=("eager", "compiled"),
        help="torch by itself, for comparison, at the deepest exit; compiled takes minutes",
    )
    parser.add_argument("--data", type=Path, help="folder of the data set [data/DATASET]")
    parser.add_argument("--dataset", default="bccd", help="which reader to use")
    parser.add_argument("--split", default="test")
    parser.add_argument("--device", default="cuda", help="what torch computes on by itself")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="and OUT's .md")
    parser.set_defaults(run=lambda options: _run(options, tools))


def _run(options: argparse.Namespace, tools: ServingTools) -> int:
    from builder.gpu_measure import MeasureError, measure

    try:
        report = measure(options, tools)
    except MeasureError as error:
        print(f"punctual: {error}", file=sys.stderr)
        return 2
    text = markdown(report)
    options.out.with_suffix(".md").write_text(text)
    print(text)
    return 0
