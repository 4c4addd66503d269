"""`narrows diagnose --url`: why a running server is slow, told from outside.

In: the command line. Out: the report as text, JSON or a page. Ctrl-C ends the experiment and reports what was
measured (exit code 130); without any answer it ends with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import numpy as np

from narrows.bench.client import Target
from narrows.bench.clock import new_loop
from narrows.bench.record import Record
from narrows.bench.server import Server, ServerUnusable, discover_model, parse_url, probe
from narrows.bench.server_figures import compare, scrape
from narrows.bench.stopping import stopping
from narrows.bench.synthetic import WordRate
from narrows.diagnose.outside.account import account
from narrows.diagnose.outside.ask import Asker, is_refused
from narrows.diagnose.outside.experiment import PARTS, Experiment
from narrows.diagnose.outside.findings import OUTSIDE_VERSION, OutsideReport
from narrows.diagnose.outside.options import Outside, read_options
from narrows.diagnose.outside.seen import Failures, Seen
from narrows.diagnose.outside.verdicts import verdicts
from narrows.diagnose.outside.words import seconds
from narrows.diagnose.workload import Workload, fit_context

EXIT_NOTHING_MEASURED, EXIT_INTERRUPTED = 1, 130
INTERRUPTED: Final = "interrupted by Ctrl-C"
FIELDS: Final = {"temperature": 0.0, "stream_options": {"include_usage": True}, "ignore_eos": True}
ENDINGS: Final = {
    "": "",
    "failing": "given up, as one request after another failed",
    "time": "the time was over; --seconds gives more",
}
UNSTEADY: Final = 1.5  # times the pace of the same request, a while later
LAG_S: Final = 5e-3  # of this process, beyond which its own stamps are doubtful
Tell = Callable[[str], None]


def run_outside(arguments: argparse.Namespace, defaults: argparse.Namespace, tell: Tell) -> OutsideReport:
    """Raises InvalidConfig where an option is wrong or nobody listens. `tell`: the next part begins."""
    options = read_options(arguments, defaults)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(examine(options, tell))


def show(report: OutsideReport, arguments: argparse.Namespace) -> int:
    """Prints and writes the report; the exit code. Raises InvalidConfig where the page cannot be written."""
    if arguments.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        from narrows.diagnose.outside.text import lines

        print("\n".join(lines(report)))
    if arguments.html is not None:
        from narrows.diagnose.outside.html import write_page

        write_page(arguments.html, report)
        print(f"wrote {arguments.html}", file=sys.stderr)
    if report.ended == INTERRUPTED:
        return EXIT_INTERRUPTED
    return 0 if report.seen.failures.ok else EXIT_NOTHING_MEASURED


async def examine(options: Outside, tell: Tell) -> OutsideReport:
    """Finds out what listens at the URL, experiments, concludes."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    seed = secrets.randbits(31)  # another one each time: see ask.py
    stop = asyncio.Event()
    tell("asking what it is")
    address = parse_url(options.url, options.api_key)
    model, max_context = await discover_model(address, wanted=options.model)
    route = options.route or address.route or "chat"
    timeout_s = min(options.timeout_s, options.seconds)
    target = Target(address.endpoint, address.base_path, model, route, FIELDS, timeout_s)
    try:
        server = await probe(target, max_context=max_context, wants_lengths=True)
    except ServerUnusable as error:
        seen = Seen(failures=_only(error.record), unmeasured=dict.fromkeys(PARTS, "the first request failed"))
        server = Server(target, max_context, WordRate())
        report = conclude(seen, server, options.workload, options.url)
        return replace(report, ended="the first request failed", seconds=loop.time() - began_s)
    asker = Asker(server, stop, seed, began_s + options.seconds)
    before = await scrape(target.endpoint, target.base_path)
    seen, ended = await experiment(asker, options.workload.streams, tell)
    after = await scrape(target.endpoint, target.base_path)
    report = conclude(seen, server, options.workload, options.url)
    notes = (*report.notes, *_server_notes(server), *_empty_notes(seen), *_lag_notes(asker))
    checks = compare(asker.records, before, after) if before and after else ()
    took_s = loop.time() - began_s
    return replace(report, ended=ended, notes=notes, checks=checks, seed=seed, seconds=took_s)


async def experiment(asker: Asker, streams: int, tell: Tell) -> tuple[Seen, str]:
    """What was seen, and why it ended before its end, or ""."""
    timer = asyncio.get_running_loop().call_later(asker.remaining_s, asker.end, "time")
    try:
        with stopping(asker.stop):
            seen = await Experiment(asker, streams=streams, tell=tell).run()
    finally:
        timer.cancel()
    return seen, ENDINGS[asker.ended] if asker.ended or not asker.is_stopped() else INTERRUPTED


def conclude(seen: Seen, server: Server, workload: Workload, url: str) -> OutsideReport:
    """From what was seen to the report; only the times and the seed of the run are missing in it."""
    fitted = workload if server.max_context is None else fit_context(workload, server.max_context)
    now = account(seen, fitted)
    notes = []
    if fitted.scaled != 1.0:
        notes.append(
            f"the workload's lengths are x {fitted.scaled:.3g}, to fit the server's context of "
            f"{server.max_context} tokens"
        )
    notes += _pace_notes(seen)
    return OutsideReport(
        version=OUTSIDE_VERSION,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        url=url,
        model=server.target.model,
        route=server.target.route,
        max_context=server.max_context,
        seconds=0.0,
        seed=0,
        ended="",
        workload=fitted.summary(),
        now=now,
        findings=verdicts(seen, now),
        seen=seen,
        notes=tuple(notes),
    )


def _only(record: Record) -> Failures:
    kind = f"http {record.status}" if record.error == "http" else str(record.error)
    if record.error == "http" and is_refused(record):
        return Failures(sent=1, refused=1)
    return Failures(sent=1, kinds={kind: 1}, examples={kind: record.detail})


def _pace_notes(seen: Seen) -> list[str]:
    """Answers alone are measured twice, some time apart."""
    if not seen.decode or not seen.levels or seen.levels[0].tpot_s is None:
        return []
    first, later = seen.decode[0].tpot_s.value, seen.levels[0].tpot_s.value
    if max(first, later) < UNSTEADY * min(first, later):
        return []
    return [
        f"a token of an answer alone took {seconds(first)}, and {seconds(later)} a while later: something "
        "else uses this server or its machine, and shares are as uncertain as that"
    ]


def _server_notes(server: Server) -> list[str]:
    effects = {
        "ignore_eos": "answers may end before they are long enough to judge",
        "temperature": "it samples as it pleases",
        "stream_options": "tokens are counted by chunks, and several in one are not seen",
    }
    notes = [f"the server does not take {name}: {effects[name]}" for name in server.dropped_fields]
    if not server.words.is_measured:
        notes.append("the server reports no prompt tokens: a word was taken for a token")
    return notes


def _empty_notes(seen: Seen) -> list[str]:
    if seen.failures.empty == 0:
        return []
    return [
        f"{seen.failures.empty} of {seen.failures.sent} answers ended without a token: the model had nothing "
        "to say to random words, and the server does not take ignore_eos"
    ]


def _lag_notes(asker: Asker) -> list[str]:
    """This process's own lateness: what it stamps late looks like the server's."""
    if not asker.lags_s:
        return []
    late_s = float(np.percentile(asker.lags_s, 99))
    if late_s < LAG_S:
        return []
    return [
        f"this process woke up to {late_s * 1e3:.0f} ms late (p99): it is short of CPU, and so much of any "
        "figure is its own; run it on another machine than the server"
    ]
