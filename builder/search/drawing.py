"""A pyramid drawn as the paper draws them: dots by level, in the order of the cells."""

from __future__ import annotations

from html import escape

from builder.config.pyramid_graphs import Graph

COLUMN, ROW, MARGIN, RADIUS = 62.0, 44.0, 34.0, 8.0

STYLE = """
.graphs { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--muted); }
figure svg text.sign { fill: #fff; font-weight: 600; }
"""
"""Style of drawings that are figures in an element of the class graphs."""


def draw(graph: Graph, title: str) -> str:
    """Return an SVG element.

    Inputs are at the left, then a cell a column, coarse levels above; ringed dots
    are outputs, "G" is attention, and dashed lines are maps that are added because nothing else
    takes them.
    """
    inputs = len(graph.levels)

    def x(offset: int) -> float:
        return MARGIN + COLUMN * max(0, offset - inputs + 1)

    def y(offset: int) -> float:
        return MARGIN + ROW * (graph.levels[-1] - graph.map_levels[offset])

    lines, dots = [], []
    for offset, step in enumerate(graph.steps(), start=inputs):
        edges = [(source, "") for source in (step.coarse, step.fine)]
        edges += [(source, ' stroke-dasharray="4 3"') for source in step.unused]
        for source, dashes in edges:
            # Bent, so that a line along a level does not run through the dots there.
            middle = (x(source) + x(offset)) / 2
            bend = -14.0 if y(source) == y(offset) and x(offset) - x(source) > COLUMN else 0.0
            lines.append(
                f'<path d="M{x(source):.0f},{y(source):.0f} Q{middle:.0f},'
                f'{(y(source) + y(offset)) / 2 + 2 * bend:.0f} {x(offset):.0f},{y(offset):.0f}" '
                f'fill="none" stroke="var(--muted)" stroke-width="1.4"{dashes}/>'
            )
        ring = ' stroke="var(--text)" stroke-width="2"' if step.cell.is_output else ""
        sign = "G" if step.cell.op == "attention" else "+"
        dots.append(
            f'<circle cx="{x(offset):.0f}" cy="{y(offset):.0f}" r="{RADIUS + 2:.0f}" '
            f'fill="var(--class{step.cell.level % 8})"{ring}/>'
            f'<text x="{x(offset):.0f}" y="{y(offset) + 4:.0f}" text-anchor="middle" '
            f'class="sign">{sign}</text>'
        )
    for offset, level in enumerate(graph.levels):
        dots.append(
            f'<circle cx="{x(offset):.0f}" cy="{y(offset):.0f}" r="{RADIUS:.0f}" '
            f'fill="var(--class{level % 8})"/>'
            f'<text x="4" y="{y(offset) + 4:.0f}">P{level}</text>'
        )
    width = 2 * MARGIN + COLUMN * len(graph.cells)
    height = 2 * MARGIN + ROW * (inputs - 1)
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{''.join(lines)}{''.join(dots)}</svg>"
    )
