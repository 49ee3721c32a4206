"""Charts as SVG text, for pages that must not fetch anything: axes, lines, bars.

A chart maps data to a box of WIDTH by HEIGHT units; colours are CSS variables of the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 720.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 12.0, 42.0
NUM_TICKS = 8
LINE_WIDTH, DOT_RADIUS = 2.0, 4.0

Point = tuple[float, float]


def ticks(low: float, high: float) -> list[float]:
    """Return about NUM_TICKS round numbers from ``low`` to ``high``."""
    span = (high - low) or 1.0
    power = 10 ** math.floor(math.log10(span / NUM_TICKS))
    step = next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= NUM_TICKS)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _wide(span: tuple[float, float]) -> tuple[float, float]:
    """Return the span, or one about it where all values are the same: there is no scale in that."""
    low, high = span
    margin = 0.05 * abs(low) or 0.5
    return span if high > low else (low - margin, high + margin)


@dataclass
class Chart:
    """One chart, drawn piece by piece; ``render`` gives the SVG element."""

    title: str
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    percent: bool = False
    """Whether y is a share, to be shown in percent."""
    _parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x_range, self.y_range = _wide(self.x_range), _wide(self.y_range)

    def x(self, value: float) -> float:
        """Return the horizontal position in the chart of an x of the data."""
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical position in the chart of a y of the data."""
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def line(
        self, points: Sequence[Point], colour: str, label: str, width: float = LINE_WIDTH
    ) -> None:
        """Draw a line through ``points``."""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="var(--{colour})" '
            f'stroke-width="{width:g}" stroke-linejoin="round">'
            f"<title>{escape(label)}</title></polyline>"
        )

    def band(self, bounds: Sequence[tuple[float, float, float]], colour: str, label: str) -> None:
        """Draw a band between the low and the high y at each x."""
        lows = [(x, low) for x, low, _ in bounds]
        highs = [(x, high) for x, _, high in reversed(bounds)]
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in [*lows, *highs])
        self._parts.append(
            f'<polygon points="{path}" fill="var(--{colour})" fill-opacity="0.15">'
            f"<title>{escape(label)}</title></polygon>"
        )

    def dots(
        self,
        points: Iterable[tuple[float, float, str]],
        colour: str,
        radius: float = DOT_RADIUS,
    ) -> None:
        """Draw a dot at each x and y, with its label."""
        self._parts.extend(
            f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius:g}" '
            f'fill="var(--{colour})">'
            f"<title>{escape(label)}</title></circle>"
            for x, y, label in points
        )

    def bar(
        self,
        span: tuple[float, float],
        low: float,
        high: float,
        colour: str,
        label: str,
        opacity: float = 1.0,
    ) -> None:
        """Draw a bar over the x in ``span`` from ``low`` to ``high``."""
        left, right = self.x(span[0]), self.x(span[1])
        gap = min(1.0, 0.15 * (right - left))
        self._parts.append(
            f'<rect x="{left + gap / 2:.2f}" y="{self.y(high):.2f}" '
            f'width="{right - left - gap:.2f}" height="{self.y(low) - self.y(high):.2f}" '
            f'fill="var(--{colour})" fill-opacity="{opacity:.2f}">'
            f"<title>{escape(label)}</title></rect>"
        )

    def mark(self, value: float, colour: str) -> None:
        """Draw a dashed vertical line at x = ``value``."""
        self._parts.append(
            f'<line x1="{self.x(value):.1f}" x2="{self.x(value):.1f}" y1="{TOP}" '
            f'y2="{HEIGHT - BOTTOM}" stroke="var(--{colour})" stroke-dasharray="4 4"/>'
        )

    def render(self) -> str:
        """Return the SVG element."""
        grid = [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.y(tick):.1f}" '
            f'y2="{self.y(tick):.1f}" class="grid"/>'
            f'<text x="{LEFT - 8}" y="{self.y(tick) + 4:.1f}" text-anchor="end">'
            f"{f'{tick:.0%}' if self.percent else f'{tick:g}'}</text>"
            for tick in ticks(*self.y_range)
        ]
        below = [
            f'<text x="{self.x(tick):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">'
            f"{tick:g}</text>"
            for tick in ticks(*self.x_range)
        ]
        middle = (TOP + HEIGHT - BOTTOM) / 2
        labels = (
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
            f"{escape(self.x_label)}</text>"
            f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y_label)}</text>"
        )
        return (
            f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
            f'aria-label="{escape(self.title)}">'
            f"{''.join(grid)}{''.join(below)}{''.join(self._parts)}{labels}</svg>"
        )
