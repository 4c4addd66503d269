"""Rows of growth.py as text: a line or a table row each, and the errors of the predictions along every axis.

Pure: rows and rates in, text out.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from growth_models import outline
from growth_points import Row

from narrows.models import sizes
from narrows.models.step_time import Rates

GOAL = 0.15


def error(row: Row, rates: Rates) -> float:
    """Predicted over measured, less one."""
    measured, seconds = row.middle(rates)
    return seconds / measured.seconds - 1


def line(row: Row, rates: Rates) -> str:
    point = row.point
    tried, seconds = row.middle(rates)
    what = f"{point.tokens} tokens" if point.kind == "prefill" else f"{point.streams} x {point.context}"
    off = error(row, rates)
    flags = ("" if abs(off) <= GOAL else " !") + ("" if tried.steady else " unsteady")
    model = f"{point.shape}:{point.weights}"
    figures = f"{tried.seconds * 1e3:10.3f} {seconds * 1e3:10.3f} {off:+7.1%}"
    ceilings = f"{tried.gb_per_s:6.1f} GB/s {tried.gmac_per_s:5.0f} GMAC/s"
    return f"{model:18} {point.threads} {point.kind:7} {what:12} {figures} {ceilings}{flags}"


def axes(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows along each axis of the growth."""
    two = [row for row in rows if row.point.threads > 1]
    decode = [row for row in two if row.point.kind == "decode"]
    return {
        "model bytes, decode": [r for r in decode if r.point.streams == 1 and r.point.context == 128],
        "context, decode": [r for r in decode if r.point.streams == 1],
        "streams, decode": [r for r in decode if r.point.context == 128],
        "streams at long contexts": [r for r in decode if r.point.streams > 1 and r.point.context > 128],
        "prompt length": [r for r in two if r.point.kind == "prefill"],
        "one thread": [r for r in rows if r.point.threads == 1],
        "all": list(rows),
    }


def summary(rows: Sequence[Row], rates: Rates) -> list[str]:
    """Errors per axis. Every point ran for at least half a second in every try."""
    lines = ["| axis | points | within 15 % | median error | worst |", "|---|---|---|---|---|"]
    for axis, found in axes(rows).items():
        if not found:
            continue
        errors = [error(row, rates) for row in found]
        within = sum(abs(off) <= GOAL for off in errors)
        middle, worst = statistics.median(map(abs, errors)), max(errors, key=abs)
        lines.append(f"| {axis} | {len(errors)} | {within} | {middle:.1%} | {worst:+.0%} |")
    return lines


def markdown(rows: Sequence[Row], rates: Rates) -> list[str]:
    """The table of the documentation: a model's decode steps, then its prompts."""
    lines = [
        "| model | MB | threads | what | measured | predicted | error | GB/s | GMAC/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (-row.point.threads, model_bytes(row))):
        point = row.point
        tried, seconds = row.middle(rates)
        if point.kind == "prefill":
            what = f"prompt of {point.tokens:,}"
        else:
            streams = f"{point.streams} streams" if point.streams > 1 else "decode"
            what = f"{streams} at {point.context:,}"
        cells = (
            f"{point.shape} {point.weights}",
            f"{model_bytes(row) / 1e6:,.0f}",
            str(point.threads),
            what,
            shown(tried.seconds),
            shown(seconds),
            f"{error(row, rates):+.0%}",
            f"{tried.gb_per_s:.0f}",
            f"{tried.gmac_per_s:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def model_bytes(row: Row) -> int:
    """What one step reads of the model."""
    known = outline(row.point.shape, row.point.weights)
    return sizes.weight_bytes(known.spec, known.recipe).step


def shown(seconds: float) -> str:
    """Three digits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
