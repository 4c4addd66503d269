"""The report as one self-contained page: figures, plots, verdicts. Light and dark by the reader's theme.

In: OutsideReport. Out: an HTML file without script or external resource, in the look of the bench's pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np

from narrows.bench.charts import Series, chart
from narrows.bench.page_style import STYLE
from narrows.diagnose.outside.findings import Finding, OutsideReport
from narrows.diagnose.outside.seen import Seen
from narrows.diagnose.outside.words import check_words, plural, seconds, three
from narrows.errors import InvalidConfig

MS = 1e3
LINE_POINTS = 40
MORE_STYLE = """
.why{background:var(--panel);border:1px solid var(--rule);border-radius:8px;padding:10px 14px;margin:10px 0}
.why h3{margin:0;font-size:15px}.why ul{margin:6px 0;padding-left:20px;color:var(--soft)}
.bar{height:6px;border-radius:3px;background:var(--c0);margin:6px 0}.trouble .bar{background:var(--c1)}
"""


def write_page(path: str, report: OutsideReport) -> None:
    """Raises InvalidConfig where it cannot be written."""
    try:
        Path(path).write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise InvalidConfig(f"the page cannot be written to {path}: {error}") from None


def page(report: OutsideReport) -> str:
    title = f"{report.model} from outside"
    workload = report.workload
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(report.url)}, {escape(report.route)}, {escape(report.made_at)}</p>",
        f"<p><b>workload</b> {escape(workload.name)}: {workload.prompt_tokens:,} tokens in, "
        f"{workload.output_tokens:,} out, {plural(workload.streams, 'stream')} at once</p>",
    ]
    if report.ended:
        parts.append(f'<p class="bad">ended early: {escape(report.ended)}</p>')
    parts += [
        _tiles(report),
        "<h2>Why</h2>",
        *(_finding(one) for one in report.findings),
        "<h2>What was measured</h2>",
        f'<div class="plots">{"".join(_plots(report.seen))}</div>',
        _level_table(report.seen),
        *_rest(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{MORE_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _tiles(report: OutsideReport) -> str:
    failures, now = report.seen.failures, report.now
    tiles = [(f"{failures.ok} / {failures.judged}", "requests answered")]
    if now is not None:
        tiles += [
            (seconds(now.ttft_s), "to the first token"),
            (seconds(now.tpot_s), "for each token after it"),
            (seconds(now.e2e_s), "for a whole request"),
        ]
    if report.seen.levels:
        best = max(report.seen.levels, key=lambda level: level.tokens_per_s)
        tiles.append((three(best.tokens_per_s), f"tokens/s at most, with {best.concurrency} at once"))
    cells = "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles)
    return f'<div class="tiles">{cells}</div>'


def _finding(finding: Finding) -> str:
    share = f"{finding.share:.0%} " if finding.share >= 0.005 else ""
    bar = f'<div class="bar" style="width:{min(1.0, finding.share):.1%}"></div>' if share else ""
    evidence = "".join(f"<li>{escape(one)}</li>" for one in finding.evidence)
    css = {"fine": "good", "trouble": "bad", "costs": ""}[finding.tone]
    advice = f"<p><b>help</b> {escape(finding.help)}</p>" if finding.help else ""
    return (
        f'<div class="why {finding.tone}"><h3 class="{css}">{share}{escape(finding.words)}</h3>{bar}'
        f"<ul>{evidence}</ul>{advice}</div>"
    )


def _plots(seen: Seen) -> Iterator[str]:
    yield _ttft_plot(seen)
    levels = [level for level in seen.levels if level.tpot_s and level.ttft_s]
    yield chart(
        "Throughput",
        [
            Series("tokens/s of all", [(one.concurrency, one.tokens_per_s) for one in levels], colour=2),
        ],
        x="requests at once",
        y="tokens/s",
    )
    yield chart(
        "What each request sees",
        [
            Series("TTFT", [(x.concurrency, x.ttft_s.value * MS) for x in levels if x.ttft_s], colour=0),
            Series("last TTFT", [(x.concurrency, x.ttft_max_s * MS) for x in levels], colour=3),
            Series("TPOT", [(x.concurrency, x.tpot_s.value * MS) for x in levels if x.tpot_s], colour=1),
        ],
        x="requests at once",
        y="ms",
        log_y=True,
    )
    if seen.meeting is not None:
        yield chart(
            f"An answer meets a prompt of {seen.meeting.prompt_tokens:,} tokens",
            [
                Series(
                    "gap between chunks", [(t * MS, gap * MS) for t, gap in seen.meeting.trace], "dots", 1
                ),
            ],
            x="ms after the prompt was sent",
            y="ms",
            log_y=True,
        )


def _ttft_plot(seen: Seen) -> str:
    dots = [(float(one.prompt_tokens), value * MS) for one in seen.lengths for value in one.all_s]
    series = [Series("each request", dots, "dots", 0)]
    if seen.line is not None:
        at = np.linspace(0, seen.line.longest, LINE_POINTS)
        points = [(float(n), seen.line.ttft_s(float(n)) * MS) for n in at]
        series.append(Series("fitted", points, colour=1))
    return chart("TTFT of prompts sent alone", series, x="prompt tokens", y="ms")


def _level_table(seen: Seen) -> str:
    if not seen.levels:
        return ""
    names = ("at once", "tokens/s", "TPOT", "TTFT", "last TTFT", "under way", "turned away", "failed")
    rows = []
    for one in seen.levels:
        cells = (
            f"{one.concurrency}",
            three(one.tokens_per_s),
            seconds(one.tpot_s.value) if one.tpot_s else "-",
            seconds(one.ttft_s.value) if one.ttft_s else "-",
            seconds(one.ttft_max_s),
            f"{one.decoding}",
            f"{one.refused}",
            f"{one.failed}",
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _rest(report: OutsideReport) -> Iterator[str]:
    for check in report.checks:
        yield f"<p>{escape(check_words(check))}</p>"
    for part, why in report.seen.unmeasured.items():
        yield f"<p>not measured: {escape(part)}: {escape(why)}</p>"
    for note in report.notes:
        yield f"<p>note: {escape(note)}</p>"
