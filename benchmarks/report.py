"""Rows as a table, as ratios against the best peer, and as JSON lines.

Pure text, apart from the facts of this machine and the file that JSON lines are appended to.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rows import ORDER, Row, lower_is_better

from narrows import _core

OURS = "narrows"
ERROR_CHARS = 110  # of an error in the table; the JSON line has it all


def in_order(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.shape, ORDER.index(row.question)))


def table(rows: Sequence[Row]) -> list[str]:
    """One line a row, questions in order; a failed row shows its error instead of figures."""
    figures = f"{'median':>9} {'low':>9} {'high':>9} {'unit':9} of ceiling"
    lines = [f"{'shape':14} {'question':11} {'engine':20} {figures}"]
    for row in in_order(rows):
        head = f"{row.shape:14} {row.question:11} {row.engine:20}"
        if row.value is None or row.low is None or row.high is None:
            lines.append(f"{head} failed: {row.error[:ERROR_CHARS]}")
            continue
        share = "" if row.fraction_of_ceiling is None else f"{row.fraction_of_ceiling:.0%} of {row.ceiling}"
        figures = f"{row.value:9.2f} {row.low:9.2f} {row.high:9.2f}"
        lines.append(f"{head} {figures} {row.unit:9} {share}".rstrip())
    return lines


def ratios(rows: Sequence[Row]) -> list[str]:
    """Each of our kinds against the best peer of as many bits, for every shape and question."""
    lines = []
    groups = dict.fromkeys((row.shape, row.question, row.bits) for row in in_order(rows))
    for shape, question, bits in groups:
        group = [row for row in rows if (row.shape, row.question, row.bits) == (shape, question, bits)]
        figures = [(row.value, row.engine) for row in group if row.value is not None]
        ours = [figure for figure in figures if figure[1].startswith(OURS)]
        theirs = [figure for figure in figures if not figure[1].startswith(OURS)]
        if not ours or not theirs:
            continue
        best = min if lower_is_better(question) else max
        other, peer = best(theirs)
        for value, name in ours:
            ratio = value / other
            lines.append(f"{shape:14} {question:11} {name} / best {bits}-bit peer ({peer}) = {ratio:.2f}")
    return lines


def machine_facts() -> dict[str, object]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    steal = Path("/proc/stat").read_text().split()[8]
    return {
        "cpu": model,
        "cpus": _core.effective_cpus(),
        "isa": _core.isa(),
        "python": platform.python_version(),
        "steal": steal,
    }


def json_lines(rows: Sequence[Row], facts: dict[str, object], now: int) -> list[str]:
    return [json.dumps({"time": now, **facts, **asdict(row)}) for row in rows]


def append(rows: Sequence[Row], facts: dict[str, object], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a") as out:
        out.write("".join(line + "\n" for line in json_lines(rows, facts, int(time.time()))))
