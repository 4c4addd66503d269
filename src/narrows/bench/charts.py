"""Plots as inline SVG: dots, lines and steps over linear or logarithmic axes. No script, no external
resource.

In: Series of points and axis names. Out: an <svg> element whose colours are the page's CSS variables, so that
it follows the reader's light or dark theme. Knows no benches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 46
MAX_DOTS = 2000
NUM_COLOURS = 4
Kind = Literal["dots", "line", "steps"]


@dataclass(frozen=True, slots=True)
class Series:
    """`colour`: 0 to 3, of the page's palette. Points are (x, y), ascending in x for lines."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: Kind = "line"
    colour: int = 0


@dataclass(frozen=True, slots=True)
class Axis:
    """`low` and `high` in the axis's own scale (logarithms of base 10 where `is_log`)."""

    name: str
    low: float
    high: float
    is_log: bool
    length: float

    def place(self, value: float) -> float:
        """Pixels from the axis's beginning."""
        scaled = math.log10(value) if self.is_log else value
        return (scaled - self.low) / (self.high - self.low) * self.length

    def ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.is_log else _ticks(self.low, self.high)


def chart(
    title: str, series: Sequence[Series], *, x: str, y: str, log_x: bool = False, log_y: bool = False
) -> str:
    """One plot. Points that a logarithmic axis cannot hold are left out; without any point it says so."""
    kept = [
        Series(one.name, _thinned(_placeable(one.points, log_x, log_y), one.kind), one.kind, one.colour)
        for one in series
    ]
    kept = [one for one in kept if one.points]
    if not kept:
        return f'<figure class="empty"><figcaption>{escape(title)}: nothing to show</figcaption></figure>'
    x_axis = _axis(x, [point[0] for one in kept for point in one.points], log_x, WIDTH - LEFT - RIGHT)
    y_axis = _axis(y, [point[1] for one in kept for point in one.points], log_y, HEIGHT - TOP - BOTTOM)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">',
        f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>',
        *_grid(x_axis, y_axis),
        *(_shape(one, x_axis, y_axis) for one in kept),
        *_legend(kept),
        "</svg>",
    ]
    return "<figure>" + "".join(parts) + "</figure>"


def shares(values: Sequence[float]) -> list[tuple[float, float]]:
    """The cumulative distribution of `values` as points (value, percent at or below it)."""
    ordered = sorted(values)
    count = len(ordered)
    step = max(1, count // 400)
    picks = sorted({*range(0, count, step), count - 1}) if count else []
    return [(ordered[i], 100 * (i + 1) / count) for i in picks]


def _placeable(points: Sequence[tuple[float, float]], log_x: bool, log_y: bool) -> list[tuple[float, float]]:
    return [
        (x, y)
        for x, y in points
        if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x) and (y > 0 or not log_y)
    ]


def _thinned(points: list[tuple[float, float]], kind: Kind) -> list[tuple[float, float]]:
    step = -(-len(points) // MAX_DOTS) if kind == "dots" else 1
    return points[:: max(1, step)]


def _axis(name: str, values: Sequence[float], is_log: bool, length: float) -> Axis:
    low, high = min(values), max(values)
    if is_log:
        low, high = math.floor(math.log10(low) * 3) / 3, math.ceil(math.log10(high) * 3) / 3
        return Axis(name, low, high if high > low else low + 1, True, length)
    low = min(0.0, low)
    high = high if high > low else low + 1
    step = _step(low, high)
    return Axis(name, low, math.ceil(high / step - 1e-9) * step, False, length)


def _step(low: float, high: float) -> float:
    rough = (high - low) / 5
    size = 10 ** math.floor(math.log10(rough))
    return float(size * next(factor for factor in (1, 2, 5, 10) if factor * size >= rough * 0.999))


def _ticks(low: float, high: float) -> list[float]:
    step = _step(low, high)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    factors = (1, 2, 5) if high - low < 3 else (1,)
    found = [f * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for f in factors]
    return [value for value in found if low - 1e-9 <= math.log10(value) <= high + 1e-9]


def _grid(x_axis: Axis, y_axis: Axis) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = []
    for value in x_axis.ticks():
        at = LEFT + x_axis.place(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>')
    for value in y_axis.ticks():
        at = bottom - y_axis.place(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle = LEFT + x_axis.length / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_axis.name)}</text>'
    )
    up = TOP + y_axis.length / 2
    parts.append(
        f'<text transform="translate(14 {up:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_axis.name)}</text>"
    )
    return parts


def _shape(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    places = [(LEFT + x_axis.place(x), HEIGHT - BOTTOM - y_axis.place(y)) for x, y in series.points]
    css = f"c{series.colour % NUM_COLOURS}"
    if series.kind == "dots":
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places)
        return f'<g class="dots {css}">{dots}</g>'
    path = f"M{places[0][0]:.1f} {places[0][1]:.1f}"
    for x, y in places[1:]:
        path += f"H{x:.1f}V{y:.1f}" if series.kind == "steps" else f"L{x:.1f} {y:.1f}"
    marks = ""
    if series.kind == "line" and len(places) <= 20:
        marks = "".join(f'<circle class="mark {css}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
    return f'<path class="line {css}" d="{path}"/>{marks}'


def _legend(series: Sequence[Series]) -> list[str]:
    """Right-aligned in the title's line, from the right."""
    parts, right = [], float(WIDTH - RIGHT)
    for one in reversed(series):
        right -= 6.6 * len(one.name)
        css = f"c{one.colour % NUM_COLOURS}"
        parts.append(f'<text x="{right:.0f}" y="16">{escape(one.name)}</text>')
        parts.append(f'<circle class="mark {css}" cx="{right - 9:.0f}" cy="12" r="4"/>')
        right -= 26
    return parts
