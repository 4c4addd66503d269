"""A Report as text for a terminal: figures, phases against ceilings, verdicts, remedies, checks.

In: Report. Out: lines. No numbers are made here.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Sequence

from narrows.report import Beside, Check, Figures, PhaseReport, Remedy, Report, Verdict

WIDTH = 110
WORTH = 1.02  # a gain below this is no gain
SHOWN = 12  # remedies


def lines(report: Report) -> list[str]:
    return [
        *_head(report),
        "",
        *_now(report),
        *(line for phase in report.phases for line in ("", *_phase(phase, _outside(report)))),
        "",
        "Why",
        *(line for verdict in report.verdicts for line in _verdict(verdict)),
        "",
        *_remedies(report),
        *(["", *_beside(report.beside)] if report.beside else []),
        *(["", *check_lines(report.checks)] if report.checks else []),
        *(
            ["", "Notes", *(line for note in report.notes for line in _wrapped(f"- {note}", 2))]
            if report.notes
            else []
        ),
    ]


def seconds(value: float) -> str:
    """Three digits and a unit."""
    if value >= 1:
        return f"{value:.3g} s"
    if value >= 1e-3:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.3g} us"


def three(value: float) -> str:
    """Three digits, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size(num_bytes: float) -> str:
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= power:
            return f"{num_bytes / power:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def _wrapped(text: str, indent: int) -> list[str]:
    pad = " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=pad, subsequent_indent=pad + "  ")


def _head(report: Report) -> Iterator[str]:
    model, machine, workload = report.model, report.machine, report.workload
    layers = f" in {model.layers} layers" if model.layers else ""
    yield f"{model.name}: {model.family}, {model.parameters / 1e6:,.4g} M weights{layers}, {model.weights}"
    if report.present != "Narrows":
        yield from _wrapped(f"as it runs now: {report.present}", 0)
    yield (
        f"on {machine.cpu or 'this CPU'} ({machine.isa}), {machine.threads} "
        f"thread{'s' if machine.threads > 1 else ''}: {machine.gb_per_s:.3g} GB/s, {machine.gmac_per_s:.3g} "
        f"{machine.mac_format} GMAC/s, {machine.source}"
    )
    if not workload.prompt_tokens:
        return
    rate = "" if workload.requests_per_s is None else f", {workload.requests_per_s:.3g} requests a second"
    yield (
        f"under {workload.name}: {workload.prompt_tokens:,} tokens in, {workload.output_tokens:,} out, "
        f"{workload.streams} stream{'s' if workload.streams > 1 else ''} at once{rate}"
    )
    for missing in model.missing:
        yield from _wrapped(f"not known: {missing}", 0)


def _outside(report: Report) -> str:
    return "entering the core, waking threads" if report.present == "Narrows" else "Python and dispatch"


def _now(report: Report) -> Iterator[str]:
    now = report.now
    if [phase.name for phase in report.phases] == ["unit"]:
        yield (
            f"now: a unit of work takes {seconds(now.tpot_s)}, {three(now.tokens_per_s)} of them a second; "
            f"{size(now.memory_bytes)} of weights"
        )
        return
    yield (
        f"now: first token after {seconds(now.ttft_s)}, then one every {seconds(now.tpot_s)}; "
        f"{three(now.tokens_per_s)} tokens/s in all; {size(now.memory_bytes)} of weights and pages"
    )
    if now.stall_s:
        yield f"     a stream waits up to {seconds(now.stall_s)} for a token while another prompt is read"


def _phase(phase: PhaseReport, outside: str) -> Iterator[str]:
    """`outside`: what the time beyond the operators is, in words."""
    width = max(10, *(len(op.group) for op in phase.ops)) if phase.ops else 10
    unit = {
        "prefill": f"a prompt of {phase.tokens:,} tokens",
        "decode": f"a token of each of {phase.streams} streams at {phase.context:,} tokens",
        "mixed": f"{phase.tokens - phase.streams + 1:,} prompt tokens beside {phase.streams - 1} streams",
        "unit": "one unit of work",
    }[phase.name]
    yield f"{phase.name}, {unit}: {seconds(phase.seconds)}, {phase.source}"
    if not phase.ops:
        return
    yield f"  {'group':{width}} {'time':>9} {'share':>6} {'bytes':>9} {'MFLOP':>10}  of which ceiling"
    for op in sorted(phase.ops, key=lambda op: -op.seconds):
        near = (
            f"{op.fraction:4.0%} of {op.ceiling}"
            if op.ceiling != "overhead"
            else f"{op.fraction:4.0%}: none is near"
        )
        yield (
            f"  {op.group:{width}} {seconds(op.seconds):>9} {op.share:6.0%} {size(op.read_bytes):>9} "
            f"{op.flops / 1e6:10,.4g}  {near}"
        )
    share = phase.outside_s / phase.seconds if phase.seconds else 0.0
    yield f"  {'outside':{width}} {seconds(phase.outside_s):>9} {share:6.0%} {'':9} {'':10}  {outside}"


def _verdict(verdict: Verdict) -> Iterator[str]:
    of = "" if verdict.of == "request" else " of the first request after a start"
    yield from _wrapped(f"{verdict.share:4.0%}{of}  {verdict.words}", 2)
    for evidence in verdict.evidence:
        yield from _wrapped(f"- {evidence}", 8)


def _remedies(report: Report) -> Iterator[str]:
    helpful = [remedy for remedy in report.remedies if remedy.gain >= WORTH]
    yield f"What would help, by {report.target}"
    for remedy in helpful[:SHOWN]:
        yield from _remedy(remedy, report.now)
    rest = len(report.remedies) - min(len(helpful), SHOWN)
    if not helpful:
        yield "  nothing that is known here"
    if rest:
        yield f"  ({rest} more that gain less or nothing; all are in --json)"


def _remedy(remedy: Remedy, now: Figures) -> Iterator[str]:
    then = remedy.figures
    interval = "unknown" if remedy.is_bound else f"[{remedy.low:.2f}, {remedy.high:.2f}]"
    most = "<" if remedy.is_bound else ""
    yield from _wrapped(f"{most}{remedy.gain:.2f}x  {interval}  {remedy.words}", 2)
    yield (
        f"        TTFT {seconds(then.ttft_s)}, TPOT {seconds(then.tpot_s)}, {three(then.tokens_per_s)} "
        f"tokens/s, {size(then.memory_bytes)}"
    )
    if not remedy.quality.words.startswith("none"):
        yield from _wrapped(f"quality: {remedy.quality.words} ({remedy.quality.source})", 8)
    for note in remedy.notes:
        yield from _wrapped(note, 8)
    yield f"        {remedy.command or 'not available in this version'}"


def shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return seconds(value) if unit == "s" else size(value) if unit == "bytes" else f"{three(value)} {unit}"


def _beside(rows: Sequence[Beside]) -> Iterator[str]:
    has_measured = any(row.measured is not None for row in rows)
    yield "Side by side"
    heads = ("", "now", "Narrows, predicted", "measured" if has_measured else "")
    yield f"  {heads[0]:12} {heads[1]:>14} {heads[2]:>20} {heads[3]:>14}".rstrip()
    for row in rows:
        values = [shown(value, row.unit) for value in (row.present, row.predicted, row.measured)]
        interval = f"  (predicted within {row.error:.0%})" if row.predicted is not None and row.error else ""
        last = values[2] if has_measured else ""
        yield f"  {row.what:12} {values[0]:>14} {values[1]:>20} {last:>14}{interval}".rstrip()


def check_lines(checks: Sequence[Check]) -> list[str]:
    """Predicted against measured, and the median and 90th percentile of the undisturbed errors."""
    made = ["Predicted, then measured"]
    width = max([len(check.remedy) for check in checks], default=0)
    for check in checks:
        show = seconds if check.unit == "s" else three
        unit = "" if check.unit == "s" else " " + check.unit
        made.append(
            f"  {check.remedy:{width}} {check.what:10} predicted {show(check.predicted):>9}, measured "
            f"{show(check.measured):>9}{unit}  {check.error:+.1%}"
            + ("" if check.is_quiet else f"  (only {check.quiet:.0%} of the CPU time: others were there)")
        )
    errors = sorted(abs(check.error) for check in checks if check.is_quiet)
    if errors:
        made.append(
            f"  {len(errors)} undisturbed checks: median error {statistics.median(errors):.1%}, 90th "
            f"percentile {percentile(errors, 0.9):.1%}, worst {errors[-1]:.1%}"
        )
    return made


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that `share` of them do not exceed."""
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 100 * len(ordered)) // 100) - 1))]
