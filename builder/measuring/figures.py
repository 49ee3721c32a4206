"""Figures of detectors that differ in one thing, after those of Ghiasi et al. (NAS-FPN, 2019).

    figure --variants--> costs, times, trainings --> points --> table, charts

A variant is trained like all others, by one recipe, over the same seeds.

OUT/VARIANT/seed_S/             a run, as ``training.loop`` writes it
OUT/from_DIGEST/VARIANT/...     the same from weights that were given
OUT/ablation.json, .md          what has been trained, as ``ablation`` writes it
OUT/figure.json, .md, .html     the figure
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from builder.config.configuration import Config
from builder.config.detector import DetectorConfig
from builder.config.pyramid_graphs import GRAPHS
from builder.measuring.ablation import FIGURES as ACCURACIES
from builder.measuring.ablation import Results, Trial
from builder.measuring.report_page import lines
from builder.modeling.cost import WIDTH_STEP, exit_costs
from reporting import markdown
from reporting.html import document, section, table

BACKBONES = ("resnet10", "resnet18", "mobilenet_v2")

DROP_BLOCK = 0.1
"""Rate of DropBlock at the last step, where there is any."""

MAX_DIFFERENCE = 0.1
"""Share by which costs that are to be equal may differ."""

Ratio = Callable[[DetectorConfig, DetectorConfig], float]
"""Function that says how many times as dear the last exit of a detector is as that of another."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One detector of a figure and the recipe that trains it."""

    series: str
    """Name of the line that its points are on."""
    name: str
    """Name of the folder of its runs."""
    config: Config
    points: tuple[tuple[int, float], ...]
    """Exits that count, each with its place on the figure's own axis."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: what differs, and what its own axis is."""

    title: str
    axis: str
    variants: Callable[[Config, Ratio], Iterator[Variant]]
    """Function that returns the variants of a configuration.

    Raises ValueError for one that there are none of.
    """


# -- variants --------------------------------------------------------------------------------------


def macs_ratio(detector: DetectorConfig, reference: DetectorConfig) -> float:
    """Return the ratio of multiply-accumulates to the last exits."""
    return exit_costs(detector)[-1].macs / exit_costs(reference)[-1].macs


def of_equal_cost(
    reference: DetectorConfig, candidates: Sequence[DetectorConfig], ratio: Ratio
) -> DetectorConfig:
    """Return the candidate whose cost is nearest to that of ``reference``.

    Candidates are in the order of their costs. Raises ValueError if the costs differ by more than
    MAX_DIFFERENCE.
    """
    above = bisect_left(candidates, 1.0, key=lambda candidate: ratio(candidate, reference))
    near = candidates[max(0, above - 1) : above + 1]
    best = min(near, key=lambda candidate: abs(ratio(candidate, reference) - 1))
    if (difference := abs(ratio(best, reference) - 1)) > MAX_DIFFERENCE:
        raise ValueError(
            f"no {best.architecture} with {best.neck} costs what {reference.neck} with "
            f"{reference.neck_channels} channels does: {difference:.0%} at best"
        )
    return best


def fpn_of(levels: Sequence[int]) -> str:
    """Return the name of the built-in FPN of some levels. Raises ValueError."""
    for name, graph in GRAPHS.items():
        if name.startswith("fpn") and graph.levels == tuple(levels):
            return name
    raise ValueError(f"there is no FPN of P{levels[0]} to P{levels[-1]}")


def _last(detector: DetectorConfig, x: float) -> tuple[tuple[int, float], ...]:
    return ((detector.num_exits, x),)


def _stacking(config: Config, _: Ratio) -> Iterator[Variant]:
    """Yield models of every number of stacks, of the configuration's own pyramid and of FPN."""
    own, step = config.detector, config.detector.stacks_per_exit
    for pyramid in (own, replace(own, neck=fpn_of(own.levels), graph=())):
        for count in range(step, own.num_stacks + 1, step):
            detector = replace(pyramid, num_stacks=count)
            variant = replace(config, detector=detector)
            name = f"{detector.neck}-{count}"
            yield Variant(detector.neck, name, variant, _last(detector, count))


def _backbones(config: Config, _: Ratio) -> Iterator[Variant]:
    """Yield a model on each backbone, all of whose exits count."""
    for backbone in BACKBONES:
        detector = replace(config.detector, backbone=backbone, backbone_layers=0)
        exits = tuple((depth, depth) for depth in range(1, detector.num_exits + 1))
        yield Variant(backbone, backbone, replace(config, detector=detector), exits)


def _widths(config: Config, _: Ratio) -> Iterator[Variant]:
    """Yield models of two widths of neck and head, as 256 and 384, without and with DropBlock."""
    narrow = config.detector.neck_channels
    for rate in (0.0, DROP_BLOCK):
        series = f"DropBlock {rate:g}" if rate else "without DropBlock"
        for width in (narrow, 3 * narrow // 2):
            detector = replace(config.detector, neck_channels=width, head_channels=width)
            variant = Config(detector, replace(config.train, drop_block=rate))
            name = f"{width}-drop_block" if rate else str(width)
            yield Variant(series, name, variant, _last(detector, width))


def _lite(config: Config, ratio: Ratio) -> Iterator[Variant]:
    """Yield the configuration's own pyramid at two widths, as 48 and 64, and its rivals.

    Those are FPN, whose width, and SSDLite, whose input size makes it cost the same.
    """
    narrow = config.detector.neck_channels
    for width in (narrow, 4 * narrow // 3):
        own = replace(config.detector, neck_channels=width, head_channels=width)
        ssdlites = list(_ssdlites(own))
        fpns = [
            replace(own, neck=fpn_of(own.levels), graph=(), neck_channels=w, head_channels=w)
            for w in range(WIDTH_STEP, 4 * width, WIDTH_STEP)
        ]
        rivals = {
            own.neck: own,
            "FPNLite": of_equal_cost(own, fpns, ratio),
            "SSDLite": of_equal_cost(own, ssdlites, ratio),
        }
        for series, detector in rivals.items():
            variant = replace(config, detector=detector)
            yield Variant(series, f"{series}-{width}", variant, _last(detector, width))


def _ssdlites(own: DetectorConfig) -> Iterator[DetectorConfig]:
    """Yield SSDLite at input sizes of the same aspect, from a quarter of the side to twice it."""
    height, width = own.input_size
    common = math.gcd(height, width)
    ssdlite = replace(
        own, architecture="ssdlite", num_stacks=0, stacks_per_exit=1, light_exits=0, plain_exit=True
    )
    for side in range(common // 4, 2 * common + 1):
        yield replace(ssdlite, input_size=(side * height // common, side * width // common))


FIGURES: dict[str, Figure] = {
    "stacking": Figure("Stacks of pyramids", "stacks", _stacking),
    "backbones": Figure("Backbones", "exit", _backbones),
    "widths": Figure("Widths and DropBlock", "channels", _widths),
    "lite": Figure("Lite detectors", "channels of the first", _lite),
}
"""Name -> figure."""


def trials(variants: Iterable[Variant], seeds: Iterable[int], folder: Path = Path()) -> list[Trial]:
    """Return the runs of a figure, seed by seed, so that every variant has a result early on.

    They are in ``folder`` of that of the figure.
    """
    variants = list(variants)
    return [
        Trial(
            variant.name,
            seed,
            replace(variant.config, train=replace(variant.config.train, seed=seed)),
            folder / variant.name / f"seed_{seed}",
            tuple(depth for depth, _ in variant.points),
        )
        for seed in seeds
        for variant in variants
    ]


# -- points ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FigurePoint:
    """One exit of a variant: what it costs, and how accurate it is."""

    series: str
    name: str
    exit: int
    x: float
    """Place on the figure's own axis."""
    input_size: tuple[int, int]
    """Height and width in pixels."""
    stacks: int
    channels: int
    macs: int
    parameters: int
    ms: float | None
    """Median milliseconds from image to boxes, if they were measured."""
    ap: tuple[float, ...]
    """COCO AP of each seed that has been trained."""
    ap50: tuple[float, ...]

    @property
    def mean_ap(self) -> float | None:
        """Mean of AP over seeds; None where nothing has been trained."""
        return statistics.fmean(self.ap) if self.ap else None


def points_of(
    variants: Iterable[Variant],
    times: Sequence[Mapping[int, float]] | None,
    results: Results,
) -> list[FigurePoint]:
    """Return the points of a figure.

    ``times`` has the milliseconds by exit of each variant, ``results`` is of an ablation of
    ``trials``.
    """
    found = []
    for number, variant in enumerate(variants):
        detector = variant.config.detector
        costs = exit_costs(detector)
        seeds = results.get(variant.name, {}).values()
        for depth, x in variant.points:
            accuracies = {
                name: tuple(of_seed[name][depth] for of_seed in seeds) for name in ACCURACIES
            }
            found.append(
                FigurePoint(
                    series=variant.series,
                    name=variant.name,
                    exit=depth,
                    x=x,
                    input_size=detector.input_size,
                    stacks=sum(len(detector.stacks_of(d)) for d in range(1, depth + 1)),
                    channels=detector.neck_channels,
                    macs=costs[depth - 1].macs,
                    parameters=costs[depth - 1].parameters,
                    ms=times[number][depth] if times else None,
                    **accuracies,
                )
            )
    return found


# -- what is written -------------------------------------------------------------------------------


def _spread(values: Sequence[float]) -> str:
    """Return the mean with the standard deviation of two or more."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.3f}"
    if len(values) == 1:
        return mean
    return f"{mean} \N{PLUS-MINUS SIGN} {statistics.stdev(values):.3f}"


COLUMNS: markdown.Columns[FigurePoint] = (
    ("variant", lambda point: point.name),
    ("exit", lambda point: str(point.exit)),
    ("input", lambda point: f"{point.input_size[1]}x{point.input_size[0]}"),
    ("stacks", lambda point: str(point.stacks)),
    ("channels", lambda point: str(point.channels) if point.stacks else "-"),
    ("GMAC", lambda point: f"{point.macs / 1e9:.3f}"),
    ("parameters, M", lambda point: f"{point.parameters / 1e6:.2f}"),
    ("ms", lambda point: "-" if point.ms is None else f"{point.ms:.2f}"),
    ("AP", lambda point: _spread(point.ap)),
    ("AP50", lambda point: _spread(point.ap50)),
    ("seeds", lambda point: str(len(point.ap))),
)

COSTS: Mapping[str, Callable[[FigurePoint], float | None]] = {
    "GMAC": lambda point: point.macs / 1e9,
    "M parameters": lambda point: point.parameters / 1e6,
    "ms": lambda point: point.ms,
}
"""Axis of a chart -> what it shows of a point."""


def as_json(about: Mapping[str, Any], points: Sequence[FigurePoint]) -> dict[str, Any]:
    """Return the figure as JSON types; ``about`` says how it was made."""
    return {**about, "points": [asdict(point) for point in points]}


def as_markdown(figure: Figure, about: Mapping[str, Any], points: Sequence[FigurePoint]) -> str:
    """Return the table of the points, below how they were made."""
    head = (f"# {figure.title}", "", f"`{about['command']}`", "", _how(about, points))
    return "\n".join((*head, *markdown.table(COLUMNS, points), ""))


def _how(about: Mapping[str, Any], points: Sequence[FigurePoint]) -> str:
    sentence = f"{about['machine']}, {about['date']}."
    if any(point.ap for point in points):
        sentence = (
            f"AP on {about['dataset']} {about['split']} after {about['epochs']} epochs, {sentence}"
        )
    if about["runtime"]:
        sentence += (
            f" Milliseconds are medians of {about['rounds']} interleaved rounds on "
            f"{about['runtime']}, threads: {about['threads'] or 'all'}."
        )
    return sentence


def as_html(figure: Figure, about: Mapping[str, Any], points: Sequence[FigurePoint]) -> str:
    """Return the page with a chart for the figure's own axis and each cost.

    They are of AP as far as anything has been trained, or else of the costs.
    """
    charts = ""
    if any(point.ap for point in points):
        axes: dict[str, Callable[[FigurePoint], float | None]]
        axes = {figure.axis: lambda point: point.x, **COSTS}
        for label, x_of in axes.items():
            charts += _chart(label, "AP", points, x_of, lambda point: point.mean_ap)
    else:
        for label, y_of in COSTS.items():
            charts += _chart(figure.axis, label, points, lambda point: point.x, y_of)
    head = [name for name, _ in COLUMNS]
    rows = [[cell(point) for _, cell in COLUMNS] for point in points]
    how = (
        f'<p class="muted">{escape(about["command"])}</p><p class="muted">'
        f"{escape(_how(about, points))}</p>"
    )
    return document(figure.title, how + charts + section("Figures", table(head, rows)))


def _chart(
    x_label: str,
    y_label: str,
    points: Sequence[FigurePoint],
    x_of: Callable[[FigurePoint], float | None],
    y_of: Callable[[FigurePoint], float | None],
) -> str:
    """Return a chart with a line for each series; nothing if no point has both values."""
    series: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        x, y = x_of(point), y_of(point)
        if x is not None and y is not None:
            series.setdefault(point.series, []).append((x, y))
    if not series:
        return ""
    drawn = [(name, sorted(of_series)) for name, of_series in series.items()]
    return section(f"{y_label} against {x_label}", lines(x_label, y_label, drawn))
