"""The result as text for a terminal. In: a Result. Out: lines. Everything that limits the figures is said."""

from __future__ import annotations

from collections.abc import Sequence

from narrows.bench.document import Measured, Result
from narrows.bench.intervals import PERCENTILES, Distribution, Estimate
from narrows.bench.server_figures import Check

TITLES = {
    "ttft": "TTFT",
    "answer": "to answer",
    "tpot": "TPOT",
    "itl": "ITL",
    "gap": "chunk gap",
    "e2e": "E2E",
}
MS = 1e3
MIN_BUNCHED_SHARE = 0.05


def text(result: Result) -> str:
    about = result.about
    target, workload, load = about["target"], about["workload"], about["load"]
    lines = [
        f"{target['model']} at {target['url']} ({target['route']})",
        f"workload  {workload['description']}",
        f"load      {load['description']}",
    ]
    for one in result.measured:
        lines += ["", *_phase(one)]
    if len(result.measured) > 1:
        lines += ["", *_sweep(result.measured)]
    if result.was_stopped:
        lines += ["", "stopped by Ctrl-C: the figures are of what was measured until then"]
    if result.notes:
        lines += ["", *(f"note: {note}" for note in result.notes)]
    return "\n".join(lines)


def _phase(one: Measured) -> list[str]:
    summary = one.summary
    requests = summary.requests
    lines = [
        f"== {summary.name}: {requests.ok} of {requests.sent} requests answered in {summary.window_s:.1f} s"
    ]
    if summary.latency_s:
        lines += _latency_table(summary.latency_s, summary.tokens.unknown_itl)
        lines.append(
            f"{'rate':<10}{_rate(summary.requests_per_s)} requests/s, {_rate(summary.output_tokens_per_s)} "
            f"output tokens/s"
        )
        lines.append(f"{'tokens':<10}{_tokens(one)}")
    if summary.goodput is not None:
        good = summary.goodput
        limits = ", ".join(f"{name.upper()} <= {value * MS:g} ms" for name, value in good.limits_s.items())
        lines.append(f"{'goodput':<10}{_rate(good.per_s)} requests/s, {good.share:.1%} of all meet {limits}")
    lines += [f"{'errors':<10}{line}" for line in _errors(one)]
    lines.append(f"{'load':<10}{one.saturation.verdict}")
    lines += _checks(one.checks)
    lines += [f"{'client':<10}{warning}" for warning in summary.client.warnings]
    return lines


def _latency_table(latencies: dict[str, Distribution], num_unknown: int) -> list[str]:
    heads = "".join(f"{f'p{percent}':>12}" for percent in PERCENTILES)
    lines = [f"{'ms':<10}{'mean':>12}{heads}   95 % interval of p50"]
    thin = False
    for name, title in TITLES.items():
        found = latencies.get(name)
        if found is None:
            if name == "itl" and num_unknown:
                lines.append(
                    f"{title:<10}  unknown: chunks of several tokens, which the server does not stamp"
                )
            continue
        cells = "".join(_cell(found.percentiles[percent]) for percent in PERCENTILES)
        thin = thin or any(one.is_thin for one in found.percentiles.values())
        p50 = found.percentiles[50]
        note = f", {num_unknown} more unknown" if name == "itl" and num_unknown else ""
        lines.append(
            f"{title:<10}{found.mean.value * MS:>12.2f}{cells}   "
            f"{p50.low * MS:.2f} to {p50.high * MS:.2f}{note}"
        )
    if thin:
        lines.append(f"{'':<10}* too few requests to say: the percentile lies among the slowest single ones")
    return lines


def _cell(estimate: Estimate) -> str:
    return f"{f'{estimate.value * MS:.2f}' + ('*' if estimate.is_thin else ''):>12}"


def _rate(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ({estimate.low:.3g} to {estimate.high:.3g})"


def _tokens(one: Measured) -> str:
    tokens = one.summary.tokens
    words = f"{tokens.prompt} of prompts, {tokens.output} of answers"
    if tokens.counted_by_chunks:
        words += (
            f"; {tokens.counted_by_chunks} answers came without usage: their tokens are events, maybe too few"
        )
    if tokens.bunched_gaps > MIN_BUNCHED_SHARE * tokens.gaps:
        words += (
            f"; {tokens.bunched_gaps / tokens.gaps:.0%} of the chunks came in one read with the one before: "
            "the server or the way to it holds them back, and ITL is of arrival, not of making"
        )
    if one.summary.requests.short:
        words += f"; {one.summary.requests.short} answers are shorter than asked"
    return words


def _errors(one: Measured) -> list[str]:
    requests = one.summary.requests
    lines = [
        f"{count} {kind}: {requests.examples.get(kind, '')}".rstrip(": ")
        for kind, count in requests.errors.items()
    ]
    if requests.interrupted:
        lines.append(f"{requests.interrupted} interrupted by Ctrl-C")
    if requests.without_done:
        lines.append(f"{requests.without_done} answers were complete but without [DONE]")
    return lines


def _checks(checks: Sequence[Check]) -> list[str]:
    if not checks:
        return [f"{'server':<10}it tells no figures of its own to compare with"]
    lines = []
    for check in checks:
        scale, form = (MS, ".2f") if check.is_time else (1.0, ".0f")
        unit = " ms" if check.is_time else ""
        client, server = format(check.client * scale, form), format(check.server * scale, form)
        verdict = f"DIFFERS: {check.note or 'no explanation'}" if check.differs else "agrees"
        lines.append(
            f"{'server':<10}{check.what}: client {client}, server {server}{unit} ({check.source}): {verdict}"
        )
    return lines


def _sweep(measured: Sequence[Measured]) -> list[str]:
    lines = [
        f"{'offered/s':>10}{'served/s':>12}{'tokens/s':>12}{'TTFT p50':>12}{'TTFT p99':>12}{'TPOT p50':>12}"
    ]
    for one in measured:
        summary = one.summary
        cells = [summary.requests_per_s.value, summary.output_tokens_per_s.value]
        times = [
            f"{found.percentiles[percent].value * MS:.2f}" if (found := summary.latency_s.get(name)) else "-"
            for name, percent in (("ttft", 50), ("ttft", 99), ("tpot", 50))
        ]
        mark = "  over-saturated" if one.saturation.is_saturated else ""
        lines.append(
            f"{summary.offered_per_s or 0:>10.3g}"
            + "".join(f"{value:>12.4g}" for value in cells)
            + "".join(f"{value:>12}" for value in times)
            + mark
        )
    kept = [one.summary.offered_per_s or 0 for one in measured if one.saturation.is_saturated is False]
    lines.append(
        f"highest rate it kept up with: {max(kept):.3g} requests/s" if kept else "no rate was kept up with"
    )
    return lines
