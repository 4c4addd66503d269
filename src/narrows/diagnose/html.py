"""A Report as one self-contained page: nothing is fetched, and the sliders compute in the page.

In: Report. Out: HTML. The script is in page/; the report itself is embedded as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from importlib import resources

from narrows.diagnose.text import WORTH, seconds, shown, size, three
from narrows.report import Beside, Check, PhaseReport, Remedy, Report, Verdict

SHOWN = 14  # remedies


def render(report: Report) -> str:
    """The whole page."""
    return "\n".join(_page(report)) + "\n"


def _file(name: str) -> str:
    return (resources.files("narrows.diagnose") / "page" / name).read_text(encoding="utf-8")


def embedded(report: Report) -> str:
    """JSON that cannot end its script element."""
    return json.dumps(report.to_json()).replace("<", "\\u003c")


def _page(report: Report) -> Iterator[str]:
    model, machine, workload = report.model, report.machine, report.workload
    title = f"Why {model.name} is slow here"
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<link rel="icon" href="data:,">'
    yield f"<title>{escape(title)}</title>\n<style>\n{_file('page.css')}</style>\n</head>\n<body>"
    yield f"<h1>{escape(title)}</h1>"
    layers = f" in {model.layers} layers" if model.layers else ""
    yield (
        f"<p>{escape(model.family)}, {model.parameters / 1e6:,.4g} M weights{layers}, "
        f"{escape(model.weights)} · {escape(machine.cpu)} ({escape(machine.isa)}), {machine.threads} "
        f"threads, {machine.gb_per_s:.3g} GB/s, {machine.gmac_per_s:.3g} {machine.mac_format} GMAC/s "
        f"({machine.source})</p>"
    )
    if report.present != "Narrows":
        yield f"<p>As it runs now: {escape(report.present)}</p>"
    yield (
        f'<p class="soft">{escape(workload.name)}: {workload.prompt_tokens:,} tokens in, '
        f"{workload.output_tokens:,} out, {workload.streams} at once · {escape(report.made_at)}</p>"
    )
    for missing in model.missing:
        yield f'<p class="soft">Not known: {escape(missing)}</p>'
    yield from _tiles(report)
    yield "<h2>Why</h2>"
    for verdict in report.verdicts:
        yield from _verdict(verdict)
    yield from _roofline(report)
    yield "<h2>Where the time goes</h2>"
    for phase in report.phases:
        yield from _phase(phase)
    yield from _remedies(report)
    yield from _what_if()
    if report.beside:
        yield from _beside(report.beside)
    if report.checks:
        yield from _checks(report.checks)
    if report.notes:
        yield "<h2>Notes</h2>" + "".join(f"<p>{escape(note)}</p>" for note in report.notes)
    yield f'<script type="application/json" id="report">{embedded(report)}</script>'
    yield f"<script>\n{_file('model.js')}\n{_file('page.js')}</script>\n</body>\n</html>"


def _tiles(report: Report) -> Iterator[str]:
    now = report.now
    if [phase.name for phase in report.phases] == ["unit"]:
        tiles = [(seconds(now.tpot_s), "a unit of work"), (size(now.memory_bytes), "weights")]
        yield _tile_row(tiles)
        return
    tiles = [
        (seconds(now.ttft_s), "to the first token"),
        (seconds(now.tpot_s), "between tokens"),
        (f"{three(now.tokens_per_s)} tokens/s", "of all streams"),
        (size(now.memory_bytes), "weights and pages"),
    ]
    yield _tile_row(tiles)


def _tile_row(tiles: Iterable[tuple[str, str]]) -> str:
    inside = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in tiles)
    return f'<div class="tiles">{inside}</div>'


def _verdict(verdict: Verdict) -> Iterator[str]:
    of = "" if verdict.of == "request" else " of the first request after a start"
    items = "".join(f"<li>{escape(evidence)}</li>" for evidence in verdict.evidence)
    yield (
        f'<div class="card"><b>{verdict.share:.0%}</b>{of} — {escape(verdict.words)}'
        f"{f'<ul>{items}</ul>' if items else ''}</div>"
    )


def _roofline(report: Report) -> Iterator[str]:
    keys = "".join(
        f'<span class="key" style="background:var(--{phase.name})"></span>{phase.name}'
        for phase in report.phases
    )
    yield '<h2>Against the ceilings</h2><div class="card">'
    yield '<svg id="roofline" viewBox="0 0 640 340" role="img" '
    yield 'aria-label="Rate of every group of operators against its operations per byte, below the ceilings">'
    yield f"</svg><p class=soft>{keys} · the larger a dot, the more of its phase's time</p></div>"


def _phase(phase: PhaseReport) -> Iterator[str]:
    yield f'<div class="card wide"><p><b>{phase.name}</b>: {phase.tokens:,} tokens, {phase.streams} streams, '
    yield f"{seconds(phase.seconds)} ({phase.source})</p><table><tr><th>group</th><th class=left>share</th>"
    yield "<th></th><th>time</th><th>bytes</th><th>MFLOP</th><th>ceiling</th></tr>"
    for op in sorted(phase.ops, key=lambda op: -op.seconds):
        near = "none is near" if op.ceiling == "overhead" else f"{op.fraction:.0%} of {op.ceiling}"
        yield (
            f'<tr><td>{op.group}</td><td class="bars"><span class="bar {phase.name}" '
            f'data-share="{op.share:.4f}"></span>'
            f"</td><td>{op.share:.0%}</td><td>{seconds(op.seconds)}</td><td>{size(op.read_bytes)}</td>"
            f"<td>{op.flops / 1e6:,.4g}</td><td>{near}</td></tr>"
        )
    if phase.ops and phase.seconds:
        share = phase.outside_s / phase.seconds
        yield (
            f'<tr><td>outside</td><td class="bars"><span class="bar {phase.name}" data-share="{share:.4f}">'
            f"</span></td><td>{share:.0%}</td><td>{seconds(phase.outside_s)}</td><td></td><td></td><td></td></tr>"
        )
    yield "</table></div>"


def _remedies(report: Report) -> Iterator[str]:
    yield f"<h2>What would help, by {report.target}</h2><div class='card wide'><table>"
    yield "<tr><th class=left>remedy</th><th>gain</th><th>interval</th><th>TTFT</th>"
    yield "<th>TPOT</th><th>tokens/s</th><th>memory</th></tr>"
    helpful = [remedy for remedy in report.remedies if remedy.gain >= WORTH]
    for remedy in helpful[:SHOWN]:
        yield from _remedy(remedy)
    yield "</table>"
    if not helpful:
        yield "<p>Nothing that is known here.</p>"
    yield "</div>"


def _remedy(remedy: Remedy) -> Iterator[str]:
    then = remedy.figures
    command = f"<code>{escape(remedy.command)}</code>" if remedy.command else "not available in this version"
    details = [command]
    if not remedy.quality.words.startswith("none"):
        details.append(f"quality: {escape(remedy.quality.words)} ({escape(remedy.quality.source)})")
    details += [escape(note) for note in remedy.notes]
    details.append(f"interval: {escape(remedy.interval_source)}")
    most = "&lt; " if remedy.is_bound else ""
    interval = "unknown until measured" if remedy.is_bound else f"{remedy.low:.2f} … {remedy.high:.2f}"
    yield (
        f'<tr><td class="words"><b>{escape(remedy.words)}</b><br><span class="soft">'
        f"{'<br>'.join(details)}</span></td><td>{most}{remedy.gain:.2f}×</td>"
        f"<td>{interval}</td><td>{seconds(then.ttft_s)}</td>"
        f"<td>{seconds(then.tpot_s)}</td><td>{three(then.tokens_per_s)}</td><td>{size(then.memory_bytes)}</td></tr>"
    )


def _what_if() -> Iterator[str]:
    yield '<section id="whatif"><h2>What if</h2><div class="card sliders">'
    for name, label in (("batch", "Streams"), ("context", "Prompt"), ("bits", "Weights")):
        yield (
            f'<label>{label}<input type="range" id="{name}" min="0" max="1" step="1">'
            f'<span id="{name}-value"></span></label>'
        )
    yield '<div class="tiles">'
    for name, label in (
        ("wi-ttft", "to the first token"),
        ("wi-tpot", "between tokens"),
        ("wi-rate", "of all streams"),
        ("wi-memory", "weights and pages"),
    ):
        yield f'<div class="tile"><b id="{name}"></b><span>{label}</span> '
        yield f'<span id="{name}-gain"></span></div>'
    yield '</div><div class="step" id="wi-step" title="a decode step"></div>'
    yield '<p class="soft">Predicted in the page, from the cost model and what was measured.</p>'
    yield "</div></section>"


def _beside(rows: Iterable[Beside]) -> Iterator[str]:
    yield "<h2>Side by side</h2><div class='card wide'><table><tr><th></th><th>now</th>"
    yield "<th>Narrows, predicted</th><th>within</th><th>Narrows, measured</th></tr>"
    for row in rows:
        cells = [shown(value, row.unit) for value in (row.present, row.predicted, row.measured)]
        yield (
            f"<tr><td>{escape(row.what)}</td><td>{cells[0]}</td><td>{cells[1]}</td>"
            f"<td>{f'{row.error:.0%}' if row.predicted is not None else '-'}</td><td>{cells[2]}</td></tr>"
        )
    yield "</table></div>"


def _checks(checks: Iterable[Check]) -> Iterator[str]:
    yield "<h2>Predicted, then measured</h2><div class='card wide'><table>"
    yield "<tr><th class=left>remedy</th><th>what</th><th>predicted</th><th>measured</th><th>error</th>"
    yield "<th>CPU time got</th></tr>"
    for check in checks:
        show = seconds if check.unit == "s" else three
        unit = "" if check.unit == "s" else f" {check.unit}"
        yield (
            f"<tr><td>{escape(check.remedy)}</td><td>{check.what}</td><td>{show(check.predicted)}{unit}</td>"
            f"<td>{show(check.measured)}{unit}</td><td>{check.error:+.1%}</td><td>{check.quiet:.0%}</td></tr>"
        )
    yield "</table></div>"
