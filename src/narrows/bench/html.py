"""The result as one self-contained page: figures, plots, and what limits them. Light and dark by the reader's
theme.

In: a result document (document.py) with its records. Out: an HTML file without script or external resource.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from narrows.bench import document
from narrows.bench.charts import Series, chart, shares
from narrows.bench.latency import Latency, latency_of
from narrows.bench.page_style import STYLE
from narrows.bench.record import Record
from narrows.bench.report import MIN_BUNCHED_SHARE
from narrows.bench.saturation import in_flight
from narrows.errors import InvalidConfig

Json = Mapping[str, Any]
MS = 1e3
TITLES = {
    "ttft": "TTFT: intended send to first token",
    "answer": "to the first token that is no reasoning",
    "tpot": "TPOT: (E2E - TTFT) / (tokens - 1)",
    "itl": "ITL: between tokens, where known",
    "gap": "between chunks",
    "e2e": "E2E: intended send to last token",
}


def write_page(path: Path, result: Json) -> None:
    """Raises InvalidConfig where it cannot be written."""
    try:
        path.write_text(page(result), encoding="utf-8")
    except OSError as error:
        raise InvalidConfig(f"the page cannot be written to {path}: {error}") from None


def page(result: Json) -> str:
    target, workload, load = result["target"], result["workload"], result["load"]
    title = f"{target['model']} under load"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(target['url'])}, {escape(target['route'])}, {escape(result['began'])}, "
        f"narrows {escape(result['narrows'])}</p>",
        f"<p><b>workload</b> {escape(workload['description'])}</p>",
        f"<p><b>load</b> {escape(load['description'])}</p>",
    ]
    if result["was_stopped"]:
        parts.append('<p class="bad">stopped by Ctrl-C: the figures are of what was measured until then</p>')
    parts += [f"<p>note: {escape(note)}</p>" for note in result["notes"]]
    if len(result["phases"]) > 1:
        parts += _sweep(result["phases"])
    for phase in result["phases"]:
        parts += _phase(phase)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _phase(phase: Json) -> list[str]:
    summary = phase["summary"]
    requests, saturation = summary["requests"], phase["saturation"]
    css = {True: "bad", False: "good", None: ""}[saturation["is_saturated"]]
    parts = [
        f"<h2>{escape(summary['name'])}</h2>",
        _tiles(summary),
        f'<p class="{css}">{escape(saturation["verdict"])}</p>',
        *(f'<p class="bad">{escape(warning)}</p>' for warning in summary["client"]["warnings"]),
        _latency_table(summary),
        _error_table(requests),
        _check_table(phase["server"]),
    ]
    return [*parts, '<div class="plots">', *_plots(phase), "</div>"]


def _tiles(summary: Json) -> str:
    requests = summary["requests"]
    tiles = [
        (f"{requests['ok']} / {requests['sent']}", "requests answered"),
        (_number(summary["requests_per_s"]["value"]), "requests/s"),
        (_number(summary["output_tokens_per_s"]["value"]), "output tokens/s"),
    ]
    for name, percent in (("ttft", "50"), ("ttft", "99"), ("tpot", "50")):
        if found := summary["latency_s"].get(name):
            tiles.append(
                (f"{found['percentiles'][percent]['value'] * MS:.1f} ms", f"{name.upper()} p{percent}")
            )
    if good := summary["goodput"]:
        limits = ", ".join(f"{name.upper()} ≤ {value * MS:g} ms" for name, value in good["limits_s"].items())
        tiles.append((f"{good['share']:.1%}", f"goodput: {limits}"))
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _latency_table(summary: Json) -> str:
    rows = []
    for name, title in TITLES.items():
        found = summary["latency_s"].get(name)
        if found is None:
            continue
        cells = "".join(_estimate_cell(found["percentiles"][p]) for p in ("50", "90", "95", "99"))
        rows.append(
            f"<tr><td>{title}</td><td>{found['count']}</td>"
            f"<td>{found['mean']['value'] * MS:.2f}</td>{cells}</tr>"
        )
    unknown = summary["tokens"]["unknown_itl"]
    known = summary["tokens"]["known_itl"]
    note = (
        f"<p>{unknown} of {unknown + known} gaps between tokens are unknown: their chunk held several "
        "tokens, and the server does not stamp them.</p>"
        if unknown
        else ""
    )
    is_thin = any(
        one["is_thin"] for found in summary["latency_s"].values() for one in found["percentiles"].values()
    )
    if rows:
        note = "<p>Small: the 95 % interval.</p>" + note
    if is_thin:
        note = "<p>* too few requests to say: the percentile lies among the slowest single ones.</p>" + note
    tokens = summary["tokens"]
    if tokens["bunched_gaps"] > MIN_BUNCHED_SHARE * tokens["gaps"]:
        share = tokens["bunched_gaps"] / tokens["gaps"]
        note += f"<p>{share:.0%} of the chunks came in one read with the one before.</p>"
    head = "".join(f"<th>{h}</th>" for h in ("ms", "count", "mean", "p50", "p90", "p95", "p99"))
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>{note}'


def _estimate_cell(estimate: Json) -> str:
    mark = "*" if estimate["is_thin"] else ""
    interval = f"{estimate['low'] * MS:.2f} to {estimate['high'] * MS:.2f}"
    return f"<td>{estimate['value'] * MS:.2f}{mark} <small>{interval}</small></td>"


def _error_table(requests: Json) -> str:
    rows = [
        f'<tr><td class="bad">{escape(kind)}</td><td>{count}</td>'
        f"<td>{escape(requests['examples'].get(kind, '')[:120])}</td></tr>"
        for kind, count in requests["errors"].items()
    ]
    if not rows:
        return ""
    head = "<tr><th>error</th><th>count</th><th>first message</th></tr>"
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _check_table(checks: Sequence[Json]) -> str:
    if not checks:
        return "<p>The server tells no figures of its own to compare with.</p>"
    rows = []
    for check in checks:
        scale = MS if check["is_time"] else 1.0
        client, server = (f"{check[side] * scale:.6g}" for side in ("client", "server"))
        verdict = (
            f'<td class="bad">{escape(check["note"] or "differs")}</td>'
            if check["differs"]
            else '<td class="good">agrees</td>'
        )
        unit = " (ms)" if check["is_time"] else ""
        rows.append(
            f"<tr><td>{escape(check['what'])}{unit}</td><td>{client}</td><td>{server}</td>{verdict}</tr>"
        )
    head = "<tr><th>cross-check</th><th>client</th><th>server</th><th></th></tr>"
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _plots(phase: Json) -> list[str]:
    records = document.phase_records(phase, "the page")
    ok = [record for record in records if record.is_ok]
    pairs = [(record, latency) for record in ok if (latency := latency_of(record))]
    latencies = [latency for _, latency in pairs]
    failed = [(r.intended_s, ((r.end_s or r.intended_s) - r.intended_s) * MS) for r in records if not r.is_ok]
    return [
        chart(
            "Each request",
            [
                Series("TTFT", [(r.intended_s, one.ttft_s * MS) for r, one in pairs], "dots", 0),
                Series("E2E", [(r.intended_s, one.e2e_s * MS) for r, one in pairs], "dots", 1),
                Series("failed after", failed, "dots", 3),
            ],
            x="meant to be sent at (s)",
            y="ms",
            log_y=True,
        ),
        chart(
            "In flight",
            [Series("requests", _flight(records), "steps", 2)],
            x="time (s)",
            y="requests sent and not ended",
        ),
        chart(
            "Share of requests at or below",
            [_cdf("TTFT", 0, latencies), _cdf("E2E", 1, latencies)],
            x="ms",
            y="%",
            log_x=True,
        ),
        chart(
            "Between tokens: share at or below",
            [_cdf("TPOT", 0, latencies), _cdf("ITL", 1, latencies), _cdf("chunk gap", 2, latencies)],
            x="ms",
            y="%",
            log_x=True,
        ),
    ]


def _cdf(name: str, colour: int, latencies: Sequence[Latency]) -> Series:
    values: dict[str, Callable[[Latency], Sequence[float]]] = {
        "TTFT": lambda one: (one.ttft_s,),
        "E2E": lambda one: (one.e2e_s,),
        "TPOT": lambda one: () if one.tpot_s is None else (one.tpot_s,),
        "ITL": lambda one: one.itl_s,
        "chunk gap": lambda one: one.gap_s,
    }
    points = shares([value * MS for one in latencies for value in values[name](one)])
    # Chunks read at once have no gap; a logarithmic axis shows them at a microsecond.
    return Series(name, [(max(x, 1e-3), y) for x, y in points], "steps", colour)


def _flight(records: Sequence[Record]) -> list[tuple[float, float]]:
    end_s = max((record.end_s or record.intended_s for record in records), default=0.0)
    times = [end_s * i / 300 for i in range(301)]
    return [(t, float(n)) for t, n in zip(times, in_flight(records, times), strict=True)]


def _sweep(phases: Sequence[Json]) -> list[str]:
    summaries = [phase["summary"] for phase in phases]
    rates = [summary["offered_per_s"] or 0.0 for summary in summaries]

    def of(name: str, percent: str) -> list[tuple[float, float]]:
        return [
            (rate, found["percentiles"][percent]["value"] * MS)
            for rate, summary in zip(rates, summaries, strict=True)
            if (found := summary["latency_s"].get(name))
        ]

    served = [(rate, one["requests_per_s"]["value"]) for rate, one in zip(rates, summaries, strict=True)]
    tokens = [(rate, one["output_tokens_per_s"]["value"]) for rate, one in zip(rates, summaries, strict=True)]
    good = [
        (rate, one["goodput"]["per_s"]["value"])
        for rate, one in zip(rates, summaries, strict=True)
        if one["goodput"]
    ]
    ideal = [(0.0, 0.0), (max(rates), max(rates))]
    plots = [
        chart(
            "Served against offered",
            [
                Series("served", served, colour=0),
                Series("goodput", good, colour=2),
                Series("as offered", ideal, colour=3),
            ],
            x="offered requests/s",
            y="requests/s",
        ),
        chart(
            "Output tokens against rate",
            [Series("tokens/s", tokens, colour=2)],
            x="offered requests/s",
            y="tokens/s",
        ),
        chart(
            "TTFT against rate",
            [Series("p50", of("ttft", "50"), colour=0), Series("p99", of("ttft", "99"), colour=1)],
            x="offered requests/s",
            y="ms",
            log_y=True,
        ),
        chart(
            "TPOT against rate",
            [Series("p50", of("tpot", "50"), colour=0), Series("p99", of("tpot", "99"), colour=1)],
            x="offered requests/s",
            y="ms",
        ),
    ]
    return ["<h2>Sweep</h2>", '<div class="plots">', *plots, "</div>"]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
