"""The report as text for a terminal. In: OutsideReport. Out: lines. No numbers are made here."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from narrows.diagnose.outside.findings import Finding, OutsideReport
from narrows.diagnose.outside.seen import LevelSeen
from narrows.diagnose.outside.words import check_words, interval, plural, seconds, three
from narrows.diagnose.text import WIDTH


def lines(report: OutsideReport) -> list[str]:
    causes = [one for one in report.findings if one.tone != "fine"]
    fine = [one for one in report.findings if one.tone == "fine"]
    found = [*_head(report), *_lengths(report), *_levels(report)]
    if causes:
        found += ["", "Why", *(line for one in causes for line in _finding(one))]
    if fine:
        found += ["", "In order", *(line for one in fine for line in _fine(one))]
    if report.seen.unmeasured:
        found += ["", "Not measured"]
        found += [
            line for part, why in report.seen.unmeasured.items() for line in _wrapped(f"- {part}: {why}", 2)
        ]
    if report.checks:
        found += ["", "Beside the server's own figures"]
        found += [line for one in report.checks for line in _wrapped(f"- {check_words(one)}", 2)]
    if report.notes:
        found += ["", "Notes", *(line for note in report.notes for line in _wrapped(f"- {note}", 2))]
    return found


def _head(report: OutsideReport) -> Iterator[str]:
    failures, workload, now = report.seen.failures, report.workload, report.now
    context = "" if report.max_context is None else f", a context of {report.max_context:,} tokens"
    yield f"{report.model} at {report.url} ({report.route}){context}"
    yield (
        f"asked from outside for {report.seconds:.0f} s: {plural(failures.sent, 'request')}, "
        f"{failures.failed} failed, {failures.refused} turned away"
    )
    if report.ended:
        yield f"ended early: {report.ended}"
    yield (
        f"under {workload.name}: {workload.prompt_tokens:,} tokens in, {workload.output_tokens:,} out, "
        f"{plural(workload.streams, 'stream')} at once"
    )
    yield ""
    if now is None:
        yield "now: not known, as too little was answered"
        return
    yield (
        f"now: first token after {seconds(now.ttft_s)}, then one every {seconds(now.tpot_s)}; a request "
        f"takes {seconds(now.e2e_s)}, put together from the parts below"
    )


def _lengths(report: OutsideReport) -> Iterator[str]:
    if not report.seen.lengths:
        return
    yield ""
    yield "alone            TTFT (95 % interval)"
    for one in report.seen.lengths:
        yield f"  {one.prompt_tokens:>6,} tokens  {interval(one.ttft_s)}"
    for answer in report.seen.decode:
        yield f"  TPOT behind {answer.prompt_tokens:,} tokens: {interval(answer.tpot_s)}"


def _levels(report: OutsideReport) -> Iterator[str]:
    if not report.seen.levels:
        return
    yield ""
    yield "at once   tokens/s       TPOT       TTFT  last TTFT  under way  turned away  failed"
    for level in report.seen.levels:
        yield _level(level)


def _level(level: LevelSeen) -> str:
    tpot = seconds(level.tpot_s.value) if level.tpot_s else "-"
    ttft = seconds(level.ttft_s.value) if level.ttft_s else "-"
    last = seconds(level.ttft_max_s) if level.ttft_s else "-"
    return (
        f"{level.concurrency:>7}{three(level.tokens_per_s):>11}{tpot:>11}{ttft:>11}{last:>11}"
        f"{level.decoding:>11}{level.refused:>13}{level.failed:>8}"
    )


def _finding(finding: Finding) -> Iterator[str]:
    share = f"{finding.share:>4.0%}" if finding.share >= 0.005 else "   -"
    yield from _wrapped(f"{share}  {finding.words}", 2, hang=6)
    for evidence in finding.evidence:
        yield from _wrapped(f"- {evidence}", 8)
    if finding.help:
        yield from _wrapped(f"help: {finding.help}", 8)


def _fine(finding: Finding) -> Iterator[str]:
    share = f" ({finding.share:.0%})" if finding.share >= 0.005 else ""
    yield from _wrapped(f"- {finding.words}{share}", 2)
    for evidence in finding.evidence:
        yield from _wrapped(evidence, 6, hang=0)


def _wrapped(text: str, indent: int, *, hang: int = 2) -> list[str]:
    pad = " " * indent
    after = pad + " " * hang
    # An option stays whole.
    return textwrap.wrap(text, WIDTH, initial_indent=pad, subsequent_indent=after, break_on_hyphens=False)
