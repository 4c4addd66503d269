"""`narrows bench --compare A.json B.json`: how B differs from A, and whether that is more than chance.

In: two results with their records. Out: ratios B / A with 95 % intervals, a line each. An interval without 1
in it is called a difference. It knows the noise within the two runs, not what another day would have brought.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from narrows.bench import document
from narrows.bench.intervals import Estimate, is_thin, ratio_interval
from narrows.bench.latency import Latency, latency_of
from narrows.bench.metrics import groups_of, slice_rates
from narrows.bench.record import Record
from narrows.errors import InvalidConfig

Verdict = Literal["better", "worse", "no difference shown", "too few requests to say"]
FIGURES = (("ttft", (50, 90, 99)), ("tpot", (50, 90, 99)), ("itl", (50, 99)), ("e2e", (50, 90, 99)))


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one phase. Times in seconds, rates per second; `ratio`: B / A."""

    phase: str
    figure: str
    a: float
    b: float
    ratio: Estimate
    verdict: Verdict


def run_compare(arguments: argparse.Namespace) -> int:
    """Prints the table, or JSON. Raises InvalidConfig where the files are no two comparable results."""
    path_a, path_b = arguments.compare
    first, second = document.read(path_a), document.read(path_b)
    rows, notes = compare(first, second, names=(path_a, path_b))
    if arguments.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "notes": notes}))
    else:
        print(table(rows, notes, names=(path_a, path_b)))
    return 0


def compare(
    first: Mapping[str, Any], second: Mapping[str, Any], *, names: tuple[Path, Path]
) -> tuple[list[Row], list[str]]:
    """Phase by phase, in order. Raises InvalidConfig where there are not as many in both."""
    phases = first["phases"], second["phases"]
    if len(phases[0]) != len(phases[1]):
        raise InvalidConfig(
            f"{names[0]} has {len(phases[0])} phases and {names[1]} has {len(phases[1])}; "
            "compare runs of the same load"
        )
    rows, notes = [], _differences(first, second)
    for phase_a, phase_b in zip(*phases, strict=True):
        found = [
            document.phase_records(phase, str(name))
            for phase, name in ((phase_a, names[0]), (phase_b, names[1]))
        ]
        title = phase_a["summary"]["name"]
        if title != phase_b["summary"]["name"]:
            title = f"{title} / {phase_b['summary']['name']}"
        rows += _rows(title, found[0], found[1])
        notes += _failures(title, found[0], found[1])
        for phase, name in ((phase_a, names[0]), (phase_b, names[1])):
            if phase["saturation"]["is_saturated"]:
                notes.append(f"{title}: {name} was over-saturated; its latencies grow with the run's length")
    return rows, notes


def table(rows: Sequence[Row], notes: Sequence[str], *, names: tuple[Path, Path]) -> str:
    lines = [f"A = {names[0]}", f"B = {names[1]}"]
    phase = None
    for row in rows:
        if row.phase != phase:
            phase = row.phase
            lines += ["", f"== {phase}", f"{'':<20}{'A':>12}{'B':>12}{'B / A':>9}   95 % interval"]
        is_rate = row.figure.endswith("/s")
        cells = [f"{value:.2f}" if is_rate else f"{value * 1e3:.2f} ms" for value in (row.a, row.b)]
        ratio = row.ratio
        lines.append(
            f"{row.figure:<20}{cells[0]:>12}{cells[1]:>12}{ratio.value:>9.3f}   "
            f"{ratio.low:.3f} to {ratio.high:.3f}  {row.verdict}"
        )
    lines += ["", *(f"note: {note}" for note in notes)] if notes else []
    shown = [row for row in rows if row.verdict in ("better", "worse")]
    lines += [
        "",
        f"{len(shown)} of {len(rows)} figures differ. By chance alone 1 in 20 would seem to, and runs of "
        "another hour differ by more than these intervals know: repeat both, in turn, before believing a "
        "small ratio.",
    ]
    return "\n".join(lines)


def _rows(title: str, records_a: Sequence[Record], records_b: Sequence[Record]) -> list[Row]:
    ok_a, ok_b = ([r for r in records if r.is_ok] for records in (records_a, records_b))
    latencies_a, latencies_b = (
        [found for record in records if (found := latency_of(record)) is not None] for records in (ok_a, ok_b)
    )
    rows = []
    for name, percents in FIGURES:
        rows += [
            row
            for percent in percents
            if (row := _percentile_row(title, name, percent, latencies_a, latencies_b))
        ]
    for index, figure in enumerate(("requests/s", "output tokens/s")):
        rates_a, rates_b = (slice_rates(records)[index] for records in (ok_a, ok_b))
        groups = [[(rate,) for rate in rates] for rates in (rates_a, rates_b)]
        ratio = ratio_interval(groups[0], groups[1], None)
        if ratio is not None:
            mean_a, mean_b = float(np.mean(rates_a)), float(np.mean(rates_b))
            verdict = _verdict(ratio, lower_is_better=False)
            rows.append(Row(title, figure, mean_a, mean_b, ratio, verdict))
    return rows


def _percentile_row(
    title: str, name: str, percent: int, first: Sequence[Latency], second: Sequence[Latency]
) -> Row | None:
    groups = groups_of(first, name), groups_of(second, name)
    ratio = ratio_interval(*groups, percent)
    if ratio is None:
        return None
    is_too_few = is_thin(min(len(side) for side in groups), percent)
    verdict: Verdict = "too few requests to say" if is_too_few else _verdict(ratio, lower_is_better=True)
    values = [float(np.percentile(np.concatenate(side), percent)) for side in groups]
    return Row(title, f"{name.upper()} p{percent}", values[0], values[1], ratio, verdict)


def _verdict(ratio: Estimate, *, lower_is_better: bool) -> Verdict:
    if ratio.low <= 1 <= ratio.high:
        return "no difference shown"
    return "better" if (ratio.value < 1) == lower_is_better else "worse"


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Settings that are not the same in both: what the ratios may be of."""
    found = []
    for part in ("target", "workload", "load"):
        for key in sorted({*first[part], *second[part]} - {"rates", "concurrency"}):
            a, b = first[part].get(key), second[part].get(key)
            if a != b:
                found.append(f"{part} {key}: A {a}, B {b}")
    return found


def _failures(title: str, first: Sequence[Record], second: Sequence[Record]) -> list[str]:
    shares = [sum(not r.is_ok for r in records) / max(1, len(records)) for records in (first, second)]
    if max(shares) == 0:
        return []
    return [
        f"{title}: {shares[0]:.1%} of A's and {shares[1]:.1%} of B's requests failed; "
        "latencies are of the others"
    ]
