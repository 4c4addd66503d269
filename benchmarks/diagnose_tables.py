"""Errors of predictions as rows of a table, and the places in docs/1-diagnose.md where tables go."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

from narrows.diagnose.text import percentile

DOCS = Path(__file__).parent.parent / "docs" / "1-diagnose.md"
BEGIN_CHECKS, END_CHECKS = "<!-- checks -->", "<!-- /checks -->"
BEGIN_GROWTH, END_GROWTH = "<!-- growth -->", "<!-- /growth -->"


def summary(errors: Iterable[float], name: str) -> str:
    """A row: how many, and the median, 90th percentile and worst of their sizes."""
    sizes = sorted(abs(error) for error in errors)
    if not sizes:
        return f"| {name} | 0 | | | |"
    return (
        f"| {name} | {len(sizes)} | {statistics.median(sizes):.1%} | {percentile(sizes, 0.9):.1%} | "
        f"{sizes[-1]:.1%} |"
    )


def write_docs(text: str, begin: str, end: str) -> None:
    """Puts a table between its marks."""
    before, rest = DOCS.read_text().split(begin)
    DOCS.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
