"""Draws docs/growth.svg from the rows of growth.py: measured times as dots, predictions as lines.

A prediction uses the ceilings measured around its own point: a line bends where the machine's bandwidth
changed between two points. Follows the reader's light or dark theme; needs nothing but Python.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from growth_models import outline
from growth_points import Point, Row

from narrows.models import sizes
from narrows.models.step_time import Rates

WIDTH, MARGIN, GAP, HEADING = 860, 16, 46, 64
PLOT_LEFT, PLOT_RIGHT, PLOT_HEIGHT, PLOT_BOTTOM = 46, 92, 210, 40
DOT, LABEL_HEIGHT = 3.2, 12
STYLE = (
    "text{fill:#1f2328;font-size:11px}.s{font-size:16px;font-weight:600}.q{font-weight:600;font-size:12px}"
    ".g{stroke:#d8dee4}.a{fill:#656d76}"
    ".c0{--c:#0a7d5a}.c1{--c:#b35900}.c2{--c:#2f6fd0}.c3{--c:#a8327d}.c4{--c:#6b7280}"
    "circle{fill:var(--c)}path{stroke:var(--c);fill:none;stroke-width:1.6}.n{fill:var(--c);font-weight:600}"
    "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.g{stroke:#30363d}.a{fill:#9198a1}"
    ".c0{--c:#3fb68b}.c1{--c:#e3a05a}.c2{--c:#79a8f0}.c3{--c:#e07bbd}.c4{--c:#9aa4b1}.n{fill:var(--c)}}"
)

DRAWN = ("9m", "100m", "qwen3-0.6b")  # along the other axes: the shapes with points all along them

Series = list[tuple[float, float, float]]  # x, measured seconds, predicted seconds


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: which rows, where they lie, how they are joined to lines."""

    title: str
    unit: str  # of x
    wanted: Callable[[Point], bool]
    x: Callable[[Point], float]
    name: Callable[[Point], str]


def model_bytes(point: Point) -> float:
    known = outline(point.shape, point.weights)
    return float(sizes.weight_bytes(known.spec, known.recipe).step)


def model_name(point: Point) -> str:
    return f"{point.shape} {point.weights}"


def is_decode(point: Point) -> bool:
    return point.kind == "decode" and point.threads > 1


PANELS = (
    Panel(
        "One token, by bytes of the model",
        "bytes",
        lambda p: is_decode(p) and p.streams == 1 and p.context == 128,
        model_bytes,
        lambda p: p.weights,
    ),
    Panel(
        "One token, by context",
        "tokens",
        lambda p: is_decode(p) and p.streams == 1 and p.weights == "q4" and p.shape in DRAWN,
        lambda p: float(p.context),
        model_name,
    ),
    Panel(
        "One step, by streams at a context of 128",
        "streams",
        lambda p: is_decode(p) and p.context == 128 and p.weights == "q4" and p.shape in DRAWN,
        lambda p: float(p.streams),
        model_name,
    ),
    Panel(
        "A prompt, by its length",
        "tokens",
        lambda p: p.kind == "prefill" and p.threads > 1 and p.weights == "q4" and p.shape in DRAWN,
        lambda p: float(p.tokens),
        model_name,
    ),
)


def series(rows: Sequence[Row], rates: Rates, panel: Panel) -> dict[str, Series]:
    """Points of each line of a panel, by x; a single point is no line but stays a dot."""
    found: dict[str, Series] = {}
    for row in rows:
        if panel.wanted(row.point):
            measured, predicted = row.middle(rates)
            line = found.setdefault(panel.name(row.point), [])
            line.append((panel.x(row.point), measured.seconds, predicted))
    return {name: sorted(line) for name, line in found.items()}


def shown(value: float, unit: str) -> str:
    """A power of ten or of two in few letters."""
    if unit == "s":
        names = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
        size, name = next((size, name) for size, name in names if value >= size * 0.999)
        return f"{value / size:.0f} {name}"
    if unit == "bytes":
        return f"{value / 1e9:.0f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"
    return f"{value / 1024:.0f}k" if value >= 1024 else f"{value:.0f}"


def ticks(low: float, high: float, unit: str) -> list[float]:
    """Powers of ten; of two or four where tokens and streams are counted."""
    if unit in ("s", "bytes"):
        return [10.0**i for i in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    step = 2 if high / low > 256 else 1
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    return [2.0**i for i in range(first, last + 1, step)]


class Axes:
    """Where a value lies in a panel; both axes logarithmic."""

    def __init__(self, lines: dict[str, Series], left: float, top: float, width: float) -> None:
        xs = [x for line in lines.values() for x, _, _ in line]
        ys = [y for line in lines.values() for _, *both in line for y in both]
        self.low = min(xs) / 1.15, min(ys) / 1.3
        self.high = max(xs) * 1.15, max(ys) * 1.3
        self.left, self.top, self.width = left, top, width

    def x(self, value: float) -> float:
        share = math.log(value / self.low[0]) / math.log(self.high[0] / self.low[0])
        return self.left + share * self.width

    def y(self, value: float) -> float:
        share = math.log(value / self.low[1]) / math.log(self.high[1] / self.low[1])
        return self.top + (1 - share) * PLOT_HEIGHT


def draw_grid(axes: Axes, unit: str) -> list[str]:
    right, bottom = axes.left + axes.width, axes.top + PLOT_HEIGHT
    out = []
    for value in ticks(axes.low[1], axes.high[1], "s"):
        y = axes.y(value)
        out.append(f'<line class="g" x1="{axes.left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = shown(value, "s")
        out.append(
            f'<text class="a" x="{axes.left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        )
    for value in ticks(axes.low[0], axes.high[0], unit):
        x = axes.x(value)
        out.append(f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{axes.top:.1f}" y2="{bottom:.1f}"/>')
        label = shown(value, unit)
        out.append(f'<text class="a" x="{x:.1f}" y="{bottom + 15:.1f}" text-anchor="middle">{label}</text>')
    middle = (axes.left + right) / 2
    return [
        *out,
        f'<text class="a" x="{middle:.1f}" y="{bottom + 30:.1f}" text-anchor="middle">{unit}</text>',
    ]


def draw_panel(panel: Panel, lines: dict[str, Series], left: float, top: float, width: float) -> list[str]:
    """Title, grid, a line and dots for each model, its name beside its last point."""
    out = [f'<text class="q" x="{left:.1f}" y="{top - 12:.1f}">{html.escape(panel.title)}</text>']
    axes = Axes(lines, left, top, width)
    out += draw_grid(axes, panel.unit)
    ends = []
    for index, (name, line) in enumerate(lines.items()):
        path = " L".join(f"{axes.x(x):.1f},{axes.y(predicted):.1f}" for x, _, predicted in line)
        dots = "".join(f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="{DOT}"/>' for x, y, _ in line)
        out.append(f'<g class="c{index}"><path d="M{path}"/>{dots}</g>')
        ends.append((axes.y(line[-1][2]), axes.x(line[-1][0]), index, name))
    lowest = -math.inf  # names keep apart, from the top downwards
    for y, x, index, name in sorted(ends):
        lowest = max(y + 4, lowest + LABEL_HEIGHT)
        out.append(f'<text class="n c{index}" x="{x + 8:.1f}" y="{lowest:.1f}">{html.escape(name)}</text>')
    return out


def draw(rows: Sequence[Row], rates: Rates) -> str:
    """The SVG: panels in two columns."""
    width = (WIDTH - 2 * MARGIN) / 2 - PLOT_LEFT - PLOT_RIGHT
    full = [(panel, lines) for panel in PANELS if (lines := series(rows, rates, panel))]
    body = [
        f'<text class="s" x="{MARGIN}" y="{MARGIN + 14}">How time grows</text>',
        f'<text class="a" x="{MARGIN}" y="{MARGIN + 32}">dots: measured; lines: predicted from operations, '
        f"bytes and two measured ceilings</text>",
    ]
    row_height = PLOT_HEIGHT + PLOT_BOTTOM + GAP
    for index, (panel, lines) in enumerate(full):
        left = MARGIN + index % 2 * (WIDTH - 2 * MARGIN) / 2 + PLOT_LEFT
        top = MARGIN + HEADING + 18 + index // 2 * row_height
        body += draw_panel(panel, lines, left, top, width)
    height = MARGIN + HEADING + 18 + -(-len(full) // 2) * row_height - 10
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" font-family="system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif">'
    )
    title = "<title>Time of prompts and decode steps, measured and predicted</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *body, "</svg>"]) + "\n"


def write(rows: Sequence[Row], rates: Rates, target: Path) -> None:
    target.write_text(draw(rows, rates))
