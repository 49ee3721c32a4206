"""Report on a model's exits, or on several models', as one HTML page that fetches nothing."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from builder.measuring.report import ExitSummary, ModelSummary, ReportImage
from reporting.html import SERIES, document, legend, section, table, tiles
from reporting.svg import Chart

MARGIN = 0.06
"""Length of an axis beyond the data, as a share of what the data span."""

_STYLE = """
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(225px, 1fr));
  gap: 10px; margin-bottom: 18px; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--muted); }
figure svg { border-radius: 4px; } figure svg text { fill: #fff; }
"""

Series = Sequence[tuple[str, Sequence[tuple[float, float]]]]
"""Lines of a chart: name and points of each."""


def page(models: Sequence[ModelSummary], dataset: str, num_images: int, score: float) -> str:
    """Return the whole document.

    ``dataset`` says what accuracies were measured on; images show detections that score at least
    ``score``.
    """
    names = ", ".join(facts.name for facts in models)
    subtitle = f"{dataset}, {num_images} images; COCO AP, IoU .50 to .95"
    content = f'<p class="muted">{escape(subtitle)}</p>{tiles(_tiles(models))}{_curves(models)}'
    return document(
        f"Exits of {names}", content + "".join(_model(facts, score) for facts in models), _STYLE
    )


def _tiles(models: Sequence[ModelSummary]) -> list[tuple[str, str, str]]:
    entries = []
    for facts in models:
        first, last = facts.exits[0], facts.exits[-1]
        best = max(facts.exits, key=lambda of_exit: of_exit.accuracy.ap)
        name, ap = facts.name, best.accuracy.ap
        note = f"from {first.accuracy.ap:.3f} at exit {first.depth}"
        entries.append((f"{name}: best AP", f"{ap:.3f}", f"exit {best.depth}, {note}"))
        cost = f"{first.macs / 1e9:.2f} to {last.macs / 1e9:.2f}"
        entries.append((f"{name}: GMAC", cost, f"exit {first.depth} to {last.depth}"))
        if first.p50_ms is not None and last.p50_ms is not None:
            latency = f"{first.p50_ms:.1f} to {last.p50_ms:.1f}"
            entries.append((f"{name}: ms", latency, f"median, {facts.runtime}"))
    return entries


# -- charts --------------------------------------------------------------------------------------


def _curves(models: Sequence[ModelSummary]) -> str:
    """Return charts of the AP of every exit of every model against what it takes to get there."""

    def against(x_of: Callable[[ExitSummary], float | None]) -> Series:
        return [
            (
                facts.name,
                [
                    (x, of_exit.accuracy.ap)
                    for of_exit in facts.exits
                    if (x := x_of(of_exit)) is not None
                ],
            )
            for facts in models
        ]

    measured = [facts for facts in models if facts.exits[0].p50_ms is not None]
    machines = dict.fromkeys(
        f"{facts.runtime}, {facts.profile.machine}, threads: {facts.profile.threads}"
        for facts in measured
        if facts.profile is not None
    )
    note = f"Medians of the segments on the way of one image, added up: {'; '.join(machines)}."
    latency = (
        lines("ms", "AP", against(lambda of_exit: of_exit.p50_ms)) + _muted(note)
        if measured
        else _muted("Not measured on this runtime yet: punctual profile --write.")
    )
    cost = lines("GMAC per image", "AP", against(lambda of_exit: of_exit.macs / 1e9))
    return (
        section("Accuracy by depth", lines("exit", "AP", against(lambda of_exit: of_exit.depth)))
        + section("Accuracy by cost", cost)
        + section("Accuracy by latency", latency)
    )


def lines(x_label: str, y_label: str, series: Series) -> str:
    """Return a chart with a line and dots for each series, and their legend.

    Points without a value (nan) are left out, as are series beyond those that there are colours
    for.
    """
    drawn = [
        (name, [(x, y) for x, y in points if math.isfinite(y)], colour)
        for (name, points), colour in zip(series, SERIES, strict=False)
    ]
    drawn = [entry for entry in drawn if entry[1]]
    if not drawn:
        return _muted("There is nothing to show.")
    every = [point for _, points, _ in drawn for point in points]
    ranges = (_axis([x for x, _ in every]), _axis([y for _, y in every]))
    chart = Chart(f"{y_label} against {x_label}", x_label, y_label, *ranges)
    for name, points, colour in drawn:
        chart.line(points, colour, name)
        labels = ((x, y, f"{name}: {y:.3f} at {x:.4g} {x_label}") for x, y in points)
        chart.dots(labels, colour)
    return chart.render() + legend([(name, colour) for name, _, colour in drawn])


def _axis(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = MARGIN * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _muted(text: str) -> str:
    return f'<p class="muted">{escape(text)}</p>'


# -- one model -----------------------------------------------------------------------------------


def _model(facts: ModelSummary, score: float) -> str:
    name = facts.name
    return (
        section(f"{name}: exits", _muted(facts.catalog.description) + _exits(facts.exits))
        + _broken_down(
            f"{name}: accuracy by class",
            facts.num_of_class,
            {of_exit.depth: of_exit.accuracy.ap_by_class for of_exit in facts.exits},
        )
        + _broken_down(
            f"{name}: accuracy by size",
            facts.num_of_size,
            {of_exit.depth: of_exit.accuracy.ap_by_size for of_exit in facts.exits},
        )
        + section(f"{name}: detections, exit by exit", _images(facts, score))
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _exits(exits: Sequence[ExitSummary]) -> str:
    head = ("exit", "AP", "AP50", "GMAC", "ms", "AP above the exit before")
    before: list[ExitSummary | None] = [None, *exits[:-1]]
    rows = (
        (
            str(of_exit.depth),
            _number(of_exit.accuracy.ap, 3),
            _number(of_exit.accuracy.ap50, 3),
            _number(of_exit.macs / 1e9, 2),
            _number(of_exit.p50_ms, 1),
            "-" if last is None else f"{of_exit.accuracy.ap - last.accuracy.ap:+.3f}",
        )
        for of_exit, last in zip(exits, before, strict=True)
    )
    return table(head, rows)


def _broken_down(
    title: str, counts: Mapping[str, int], accuracies: Mapping[int, Mapping[str, float]]
) -> str:
    """Return the accuracy by exit of each part of the data set, as a chart and a table.

    ``counts`` has the number of objects in each part.
    """
    series = [(name, [(depth, of[name]) for depth, of in accuracies.items()]) for name in counts]
    head = ("", "objects", *(f"exit {depth}" for depth in accuracies))
    rows = (
        (name, f"{counts[name]:,}", *(_number(value, 3) for _, value in points))
        for name, points in series
    )
    content = "" if len(series) > len(SERIES) else lines("exit", "AP", series)
    return section(title, content + table(head, rows))


def _images(facts: ModelSummary, score: float) -> str:
    classes = facts.classes
    note = f"Lines: detections that score {score:g} or more. Dashed: the annotations."
    rows = "".join(
        f'{_symbol(image, identity)}{_muted(image.name)}<div class="pictures">'
        + "".join(_figure(image, identity, depth, classes, score) for depth in image.found)
        + "</div>"
        for number, image in enumerate(facts.images)
        for identity in (f"{facts.name}-{number}",)
    )
    colours = [(name, _colour(index)) for index, name in enumerate(classes)]
    return _muted(note) + (legend(colours) if len(classes) <= len(SERIES) else "") + rows


def _colour(label: int) -> str:
    return SERIES[label % len(SERIES)]


def _symbol(image: ReportImage, identity: str) -> str:
    """Return the image as an SVG symbol, once for all exits."""
    height, width = image.size
    data = b64encode(image.jpeg).decode()
    return (
        f'<svg width="0" height="0" style="display:none"><symbol id="{escape(identity)}" '
        f'viewBox="0 0 {width} {height}"><image width="{width}" height="{height}" '
        f'preserveAspectRatio="none" href="data:image/jpeg;base64,{data}"/></symbol></svg>'
    )


def _figure(
    image: ReportImage, identity: str, depth: int, classes: Sequence[str], score: float
) -> str:
    height, width = image.size
    found = image.found[depth]
    shown = [index for index, value in enumerate(found.scores) if value >= score]
    unit = max(height, width) / 225  # about a pixel of the page
    boxes = _boxes(image.boxes_xyxy, ["#fff"] * len(image.boxes_xyxy), unit, True)
    colours = [f"var(--{_colour(int(found.labels[index]))})" for index in shown]
    labels = [f"{classes[int(found.labels[i])]} {found.scores[i]:.2f}" for i in shown]
    boxes += _boxes(found.boxes_xyxy[shown], colours, 1.6 * unit, False, labels)
    caption = f"exit {depth}: {len(shown)} detections, {len(image.boxes_xyxy)} objects"
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(f"{image.name}, {caption}")}">'
        f'<use href="#{escape(identity)}" width="{width}" height="{height}"/>{boxes}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _boxes(
    boxes_xyxy: Iterable[Sequence[float]],
    colours: Sequence[str],
    stroke: float,
    dashed: bool,
    labels: Sequence[str] = (),
) -> str:
    """Return boxes as SVG rectangles; a label is shown where the pointer is."""
    dash = f' stroke-dasharray="{3 * stroke:.1f} {3 * stroke:.1f}"' if dashed else ""
    titles = [f"<title>{escape(label)}</title>" for label in labels] or [""] * len(colours)
    return "".join(
        f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" '
        f'fill="none" pointer-events="all" stroke="{colour}" stroke-width="{stroke:.1f}"{dash}>'
        f"{title}</rect>"
        for (x1, y1, x2, y2), colour, title in zip(boxes_xyxy, colours, titles, strict=True)
    )
