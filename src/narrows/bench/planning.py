"""From options and what is known of the server to the requests of every phase.

In: Options, a Server. Out: PhasePlans, in order, and words for the report. Files were read before the server
was asked, so that a bad line costs nobody a run.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from narrows.bench.arrivals import MAX_REQUESTS, arrival_times
from narrows.bench.options import DEFAULT_OUTPUT, LoadOptions, Options, WorkloadOptions
from narrows.bench.prompts import Prompt, read_prompts
from narrows.bench.server import Server
from narrows.bench.traces import TraceRow, fit_lengths, fit_times, read_trace
from narrows.bench.workload import (
    Planned,
    SyntheticPlan,
    Workload,
    at_times,
    from_prompts,
    from_trace,
    synthetic,
)
from narrows.errors import InvalidConfig

CONTEXT_MARGIN = 0.03  # synthetic prompts come out a little longer or shorter than wanted


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """`requests` with times (open loop), or an iterable without (closed loop, `concurrency` users)."""

    name: str
    requests: Iterable[Planned]
    num_requests: int | None  # None: as many as the duration allows
    concurrency: int | None = None
    sending_s: float | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """What the files hold, before the server is known."""

    prompts: tuple[tuple[Prompt, int | None], ...] = ()
    trace: tuple[TraceRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    phases: list[PhasePlan]
    warmup: list[Planned]
    workload_words: str
    load_words: str
    notes: tuple[str, ...]


def read_files(options: WorkloadOptions, load: LoadOptions) -> Files:
    """Raises InvalidConfig, naming file and line."""
    if options.prompts is not None:
        return Files(prompts=tuple(read_prompts(options.prompts)))
    if options.trace is not None:
        return Files(trace=tuple(read_trace(options.trace, limit=load.num_requests)))
    return Files()


def make_plan(options: Options, files: Files, server: Server) -> Plan:
    """Raises InvalidConfig where nothing could be sent."""
    if files.trace:
        return _trace_plan(options, files, server)
    load, work = options.load, options.workload
    workload, words, notes = _workload(work, load, files, server)
    phases = (
        [_open_phase(workload, load, rate, i) for i, rate in enumerate(load.rates)]
        if load.rates
        else [_closed_phase(workload, load)]
    )
    most = max((phase.num_requests or 0 for phase in phases), default=0)
    if files.prompts and most > len(files.prompts):
        notes.append(
            f"{len(files.prompts)} prompts serve {most} requests: "
            "a repeated one may be answered from a prefix cache"
        )
    # Warm-up asks what will not be asked again: a prefix cache must not know the answers beforehand.
    first = MAX_REQUESTS * 10
    warmup = [replace(workload(first + i), index=i) for i in range(load.warmup)]
    return Plan(phases, warmup, words, _load_words(load), tuple(notes))


def _open_phase(workload: Workload, load: LoadOptions, rate: float, position: int) -> PhasePlan:
    times = arrival_times(
        load.shape,
        rate,
        num_requests=load.num_requests,
        duration_s=load.duration_s,
        seed=load.seed + position,
        burst_size=load.burst_size,
    )
    # By number of requests the sending ends one gap after the last; by time it ends with the time.
    is_by_time = load.num_requests is None or len(times) < load.num_requests
    requests = at_times(workload, times, first_index=position * MAX_REQUESTS)
    requests = [replace(one, index=i) for i, one in enumerate(requests)]
    return PhasePlan(
        f"{rate:g} requests/s",
        requests,
        len(requests),
        sending_s=load.duration_s if is_by_time else None,
    )


def _closed_phase(workload: Workload, load: LoadOptions) -> PhasePlan:
    count = load.num_requests if load.num_requests is not None else MAX_REQUESTS
    users = load.concurrency or 1
    name = "1 user" if users == 1 else f"{users} users"
    return PhasePlan(name, islice(map(workload, range(count)), count), load.num_requests, users)


def _workload(
    options: WorkloadOptions, load: LoadOptions, files: Files, server: Server
) -> tuple[Workload, str, list[str]]:
    if files.prompts:
        order = list(range(len(files.prompts)))
        if options.is_shuffled:
            random.Random(load.seed).shuffle(order)
        assert options.prompts is not None
        output = options.output or DEFAULT_OUTPUT
        words = f"{len(order)} prompts of {options.prompts.name}, answers of "
        words += f"{_span(output.low, output.high)} tokens where a line does not say"
        return from_prompts(files.prompts, output=output, seed=load.seed, order=order), words, []
    plan = SyntheticPlan(
        options.input, options.output or DEFAULT_OUTPUT, options.prefix_tokens, options.prefix_groups
    )
    longest = plan.prompt.high + plan.output.high
    if server.max_context is not None and longest > server.max_context:
        raise InvalidConfig(
            f"{longest} tokens of prompt and answer do not fit into the server's context of "
            f"{server.max_context}; "
            "lower --input-tokens or --output-tokens"
        )
    words = (
        f"synthetic, prompts of {_span(plan.prompt.low, plan.prompt.high)} and answers of "
        f"{_span(plan.output.low, plan.output.high)} tokens"
    )
    if plan.prefix_tokens:
        words += f", {plan.num_groups} prefixes of {plan.prefix_tokens} tokens in common"
    return synthetic(plan, rate=server.words, seed=load.seed), words, _length_notes(server)


def _trace_plan(options: Options, files: Files, server: Server) -> Plan:
    load, work = options.load, options.workload
    context = work.context or server.max_context
    rows = list(files.trace)
    rate = load.rates[0] if load.rates else None
    rows = fit_times(rows, speed=work.trace_speed, rate_per_s=rate, duration_s=load.duration_s)
    notes = _length_notes(server)
    factor = 1.0
    if context is None:
        notes.append("the server does not tell its context: lengths are the trace's own; --context fits them")
    else:
        whole, before = rows, len(rows)
        rows, factor = fit_lengths(rows, max(2, int(context * (1 - CONTEXT_MARGIN))), work.trace_fit)
        if work.trace_fit == "clip":
            cut = sum(old != new for old, new in zip(whole, rows, strict=True))
            notes.append(f"{cut} of {len(rows)} requests of the trace are cut to the context")
        if len(rows) < before:
            notes.append(
                f"{before - len(rows)} requests of the trace are longer than the context and left out"
            )
    assert work.trace is not None
    words = f"{len(rows)} requests of {work.trace.name}"
    if factor != 1.0:
        words += f", lengths x {factor:.3g} to fit a context of {context} tokens"
    rate_words = f"mean {rate:g} requests/s" if rate else f"{work.trace_speed:g} times as fast as recorded"
    requests = from_trace(rows, rate=server.words, seed=load.seed)
    warmup = [
        replace(one, prompt=Prompt.of_text(f"warm up {one.index}"), at_s=None)
        for one in requests[: load.warmup]
    ]
    phase = PhasePlan(work.trace.name, requests, len(requests))
    return Plan([phase], warmup, words, f"open loop, the trace's arrivals, {rate_words}", tuple(notes))


def _length_notes(server: Server) -> list[str]:
    if server.words.is_measured:
        return []
    return [
        "the server reports no prompt tokens: a word was taken for a token, and prompt lengths are a guess"
    ]


def _load_words(load: LoadOptions) -> str:
    until = [f"{load.num_requests} requests"] if load.num_requests is not None else []
    until += [f"{load.duration_s:g} s"] if load.duration_s is not None else []
    if not load.rates:
        users = load.concurrency or 1
        return (
            f"closed loop, {users} user{'s' * (users > 1)}, {' or '.join(until)}; latency counts from sending"
        )
    rates = ", ".join(f"{rate:g}" for rate in load.rates)
    bursts = f" of {load.burst_size}" if load.shape == "burst" else ""
    return (
        f"open loop, {load.shape}{bursts} at {rates} requests/s, {' or '.join(until)}; "
        "latency counts from the intended time"
    )


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
