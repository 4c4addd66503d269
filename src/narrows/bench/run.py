"""`narrows bench`: load on a server, measured from outside.

In: the command line. Out: a table or JSON on stdout, files where asked for, a progress bar on stderr. Ctrl-C
ends the load and reports what was measured (exit code 130); no successful request at all ends with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import shlex
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from typing import Any

from narrows import __version__
from narrows.bench import document, report
from narrows.bench.arguments import configure
from narrows.bench.client import Client, Target
from narrows.bench.clock import new_loop
from narrows.bench.document import Measured, Result
from narrows.bench.load import Load, OnRecord, Phase
from narrows.bench.metrics import summarize
from narrows.bench.options import Options, read_options
from narrows.bench.own_server import OwnServerFailed, own_server
from narrows.bench.planning import Files, PhasePlan, Plan, make_plan, read_files
from narrows.bench.record import Record
from narrows.bench.saturation import judge
from narrows.bench.server import Server, discover_model, parse_url, probe
from narrows.bench.server_figures import compare, scrape
from narrows.bench.stopping import stopping
from narrows.errors import InvalidConfig

__all__ = ["configure", "run"]
EXIT_NOTHING_MEASURED, EXIT_INTERRUPTED = 1, 130


def run(arguments: argparse.Namespace) -> int:
    if arguments.compare is not None:
        from narrows.bench.compare import run_compare

        _refuse_others(arguments, ("compare", "json"))
        return run_compare(arguments)
    options = read_options(arguments)
    files = read_files(options.workload, options.load)
    _raise_descriptor_limit()
    try:
        with _server_url(options) as url:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                result = runner.run(Bench(options, files, url).run())
            # Before the server ends: whatever goes wrong there must not cost the measurement.
            return _tell(result, options)
    except OwnServerFailed as error:  # it has said why
        return error.exit_code


def _server_url(options: Options) -> AbstractContextManager[str]:
    if options.is_url:
        return nullcontext(options.target)
    model = [options.target] if options.target else []
    return own_server([*model, *options.serve_words])


def _tell(result: Result, options: Options) -> int:
    """The files first, and the table although they fail: neither a full disk nor a terminal that has gone
    away may cost the measurement. Raises InvalidConfig where a file could not be written.
    """
    whole = document.to_json(result)
    problem: InvalidConfig | None = None
    try:
        if options.output is not None:
            document.write(options.output, whole)
        if options.html is not None:
            from narrows.bench.html import write_page

            write_page(options.html, whole)
    except InvalidConfig as error:
        problem = error
    print(
        json.dumps(document.to_json(result, with_records=False)) if options.as_json else report.text(result)
    )
    if problem is not None:
        raise problem
    if result.was_stopped:
        return EXIT_INTERRUPTED
    is_any = any(one.summary.requests.ok for one in result.measured)
    return 0 if is_any else EXIT_NOTHING_MEASURED


class Bench:
    """One run of the verb against a server that is up."""

    def __init__(self, options: Options, files: Files, url: str) -> None:
        self._options = options
        self._files = files
        self._url = url
        self._stop = asyncio.Event()

    async def run(self) -> Result:
        began = datetime.now(UTC)
        server = await self._server()
        plan = make_plan(self._options, self._files, server)
        with stopping(self._stop):
            await self._warm_up(plan, server.target)
            measured = await self._measure_all(plan, server.target)
        notes = [*plan.notes, *_dropped_notes(server)]
        return Result(self._about(server, plan, began), measured, notes, self._stop.is_set())

    async def _measure_all(self, plan: Plan, target: Target) -> list[Measured]:
        # What exists now stays: the collector need not walk it while tokens arrive.
        gc.collect()
        gc.freeze()
        measured = []
        for phase_plan in plan.phases:
            if self._stop.is_set():
                break
            measured.append(await self._measure(phase_plan, target))
        gc.unfreeze()
        return measured

    async def _server(self) -> Server:
        options = self._options
        address = parse_url(self._url, options.api_key)
        model, max_context = await discover_model(address, wanted=options.model)
        target = Target(
            address.endpoint,
            address.base_path,
            model,
            options.route or address.route or "chat",
            options.fields,
            options.timeout_s,
        )
        wants_lengths = options.workload.prompts is None
        return await probe(target, max_context=max_context, wants_lengths=wants_lengths)

    async def _warm_up(self, plan: Plan, target: Target) -> None:
        load = self._load(target, lambda record: None)
        users = max(1, min(len(plan.warmup), self._options.load.concurrency or 1))
        await load.closed_loop("warm-up", plan.warmup, users)

    async def _measure(self, plan: PhasePlan, target: Target) -> Measured:
        before = await scrape(target.endpoint, target.base_path)
        phase = await self._run_phase(plan, target)
        after = await scrape(target.endpoint, target.base_path)
        return Measured(
            phase,
            summarize(phase, self._options.limits_s, seed=self._options.load.seed),
            judge(phase),
            compare(phase.records, before, after) if after else compare(phase.records, {}, {}),
        )

    async def _run_phase(self, plan: PhasePlan, target: Target) -> Phase:
        from tqdm import tqdm

        # Drawing takes time from the loop that stamps: twice a second is enough.
        with tqdm(
            total=plan.num_requests, desc=plan.name, unit="req", file=sys.stderr, mininterval=0.5, leave=False
        ) as bar:
            failed = 0

            def on_record(record: Record) -> None:
                nonlocal failed
                if not record.is_ok:
                    failed += 1
                    bar.set_postfix_str(f"{failed} failed", refresh=False)
                bar.update()

            load = self._load(target, on_record)
            if plan.concurrency is None:
                return await load.open_loop(plan.name, list(plan.requests), sending_s=plan.sending_s)
            return await load.closed_loop(
                plan.name, plan.requests, plan.concurrency, duration_s=self._options.load.duration_s
            )

    def _load(self, target: Target, on_record: OnRecord) -> Load:
        return Load(lambda began_s: Client(target, began_s=began_s), stop=self._stop, on_record=on_record)

    def _about(self, server: Server, plan: Plan, began: datetime) -> Mapping[str, Any]:
        options, target = self._options, server.target
        load = options.load
        return {
            "narrows": __version__,
            "began": began.isoformat(timespec="seconds"),
            "target": {
                "url": self._url if options.is_url else "our own server",
                "model": target.model,
                "route": target.route,
                "fields": dict(target.fields),
                "serve": shlex.join(options.serve_words) if not options.is_url else None,
                "max_context": server.max_context,
                "timeout_s": target.timeout_s,
            },
            "workload": {
                "description": plan.workload_words,
                "tokens_per_word": server.words.tokens_per_word if server.words.is_measured else None,
            },
            "load": {
                "description": plan.load_words,
                "rates": list(load.rates),
                "concurrency": load.concurrency,
                "seed": load.seed,
                "warmup": load.warmup,
            },
        }


def _dropped_notes(server: Server) -> list[str]:
    effects = {
        "ignore_eos": "answers may be shorter than asked",
        "temperature": "it samples as it pleases",
        "stream_options": "tokens are counted by events, and ITL is unknown",
    }
    return [f"the server does not take {name}: {effects[name]}" for name in server.dropped_fields]


def _refuse_others(arguments: argparse.Namespace, allowed: tuple[str, ...]) -> None:
    """An option that does nothing is refused, not ignored."""
    parser = argparse.ArgumentParser()
    configure(parser)
    defaults = vars(parser.parse_args([]))
    for name, value in vars(arguments).items():
        if name not in allowed and value != defaults.get(name):
            raise InvalidConfig(f"--compare measures nothing: leave out {name.replace('_', '-')}")


def _raise_descriptor_limit() -> None:
    """An overloaded open loop holds many connections; the soft limit is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
