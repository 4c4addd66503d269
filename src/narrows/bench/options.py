"""The options of `narrows bench`, checked before anything is sent. In: argparse. Out: a frozen Options.

Raises InvalidConfig where options contradict each other: none is ignored.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narrows.bench.arguments import API_KEY_VARIABLE
from narrows.bench.arrivals import MAX_REQUESTS, Shape, sweep_rates
from narrows.bench.client import Route
from narrows.bench.slo import parse_slo
from narrows.bench.synthetic import Lengths
from narrows.bench.traces import Fit
from narrows.errors import InvalidConfig

DEFAULT_REQUESTS = 100
DEFAULT_INPUT, DEFAULT_OUTPUT = Lengths(64, 64), Lengths(64, 64)
# Fields of the request that the bench sets itself.
OWN_FIELDS = ("model", "messages", "prompt", "stream", "max_tokens", "n")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Either `rates` (open loop), a trace (open loop by its times), or `concurrency` (closed loop)."""

    rates: tuple[float, ...]
    is_sweep: bool
    concurrency: int | None
    shape: Shape
    burst_size: int
    num_requests: int | None
    duration_s: float | None
    warmup: int
    seed: int


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    prompts: Path | None
    is_shuffled: bool
    trace: Path | None
    trace_speed: float
    trace_fit: Fit
    input: Lengths
    output: Lengths | None
    prefix_tokens: int
    prefix_groups: int
    context: int | None


@dataclass(frozen=True, slots=True)
class Options:
    target: str
    is_url: bool
    model: str | None
    route: Route | None
    api_key: str | None
    serve_words: tuple[str, ...]
    fields: Mapping[str, Any]
    timeout_s: float
    load: LoadOptions
    workload: WorkloadOptions
    limits_s: Mapping[str, float]
    output: Path | None
    html: Path | None
    as_json: bool


def read_options(arguments: argparse.Namespace) -> Options:
    """Raises InvalidConfig."""
    target = arguments.target
    is_url = target.startswith(("http://", "https://"))
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", target):
        raise InvalidConfig(f"{target} looks like a server's address; write http://{target}")
    if is_url and arguments.serve:
        raise InvalidConfig("--serve is for a server of ours; the URL names one that runs already")
    if not is_url and arguments.api_key:
        raise InvalidConfig("--api-key is for a server at a URL; one of our own here takes none")
    if not arguments.timeout > 0:
        raise InvalidConfig(f"--timeout is {arguments.timeout:g}; give seconds above 0")
    return Options(
        target=target,
        is_url=is_url,
        model=arguments.model,
        route=arguments.route,
        api_key=(arguments.api_key or os.environ.get(API_KEY_VARIABLE)) if is_url else None,
        serve_words=_words(arguments.serve),
        fields=_fields(arguments),
        timeout_s=arguments.timeout,
        load=_load(arguments),
        workload=_workload(arguments),
        limits_s=parse_slo(arguments.slo) if arguments.slo else {},
        output=_writable(arguments.output, "--output"),
        html=_writable(arguments.html, "--html"),
        as_json=arguments.json,
    )


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidConfig(f"--serve {text!r}: {error}") from None


def _fields(arguments: argparse.Namespace) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "temperature": arguments.temperature,
        "stream_options": {"include_usage": True},
    }
    if not arguments.stop_at_eos:
        fields["ignore_eos"] = True
    if arguments.extra is None:
        return fields
    try:
        extra = json.loads(arguments.extra)
    except ValueError as error:
        raise InvalidConfig(f"--extra is no JSON: {error}") from None
    if not isinstance(extra, dict):
        raise InvalidConfig(f"--extra should be a JSON object, not {type(extra).__name__}")
    for name in OWN_FIELDS:
        if name in extra:
            raise InvalidConfig(f"--extra sets {name!r}, which the bench sets itself")
    return fields | extra


def _load(arguments: argparse.Namespace) -> LoadOptions:
    rates = tuple(sweep_rates(arguments.sweep)) if arguments.sweep else ()
    if arguments.rate is not None:
        rates = (arguments.rate,)
    if not all(0 < rate < float("inf") for rate in rates):
        raise InvalidConfig(f"a rate of {rates[0]:g} requests/s sends nothing; give a positive one")
    is_open = bool(rates) or arguments.trace is not None
    for option, value in (("--arrivals", arguments.arrivals), ("--burst-size", arguments.burst_size)):
        if value is not None and (not rates or arguments.trace):
            raise InvalidConfig(
                f"{option} needs --rate or --sweep, and no trace: a trace has its own arrivals"
            )
    if arguments.burst_size is not None and arguments.arrivals != "burst":
        raise InvalidConfig("--burst-size needs --arrivals burst")
    if arguments.trace and (arguments.sweep or arguments.concurrency):
        raise InvalidConfig(
            "a trace brings its arrivals: give --trace-speed or --rate, no --sweep or --concurrency"
        )
    num_requests = arguments.requests
    if num_requests is None and arguments.duration is None:
        num_requests = DEFAULT_REQUESTS
    for name, number, least in (
        ("--requests", num_requests, 1),
        ("--concurrency", arguments.concurrency, 1),
        ("--burst-size", arguments.burst_size, 1),
        ("--warmup", arguments.warmup, 0),
        ("--seed", arguments.seed, 0),
    ):
        if number is not None and not least <= number <= MAX_REQUESTS * (1000 if name == "--seed" else 1):
            raise InvalidConfig(f"{name} is {number}; give {least} or more, at most a million")
    if arguments.duration is not None and not 0 < arguments.duration <= 1e6:
        raise InvalidConfig(f"--duration is {arguments.duration:g}; give seconds above 0")
    return LoadOptions(
        rates=rates,
        is_sweep=arguments.sweep is not None,
        concurrency=None if is_open else arguments.concurrency or 1,
        shape=arguments.arrivals or "poisson",
        burst_size=arguments.burst_size or 8,
        num_requests=num_requests,
        duration_s=arguments.duration,
        warmup=arguments.warmup,
        seed=arguments.seed,
    )


def _workload(arguments: argparse.Namespace) -> WorkloadOptions:
    has_file = arguments.prompts is not None or arguments.trace is not None
    if arguments.prompts and arguments.trace:
        raise InvalidConfig("--prompts and --trace are two workloads; give one")
    for option, value, needed, is_given in (
        ("--input-tokens", arguments.input_tokens, "a synthetic workload", not has_file),
        ("--prefix-tokens", arguments.prefix_tokens, "a synthetic workload", not has_file),
        ("--prefix-groups", arguments.prefix_groups, "--prefix-tokens", arguments.prefix_tokens is not None),
        ("--output-tokens", arguments.output_tokens, "no trace, which has its own", arguments.trace is None),
        ("--shuffle", arguments.shuffle or None, "--prompts", arguments.prompts is not None),
        ("--trace-speed", arguments.trace_speed, "--trace", arguments.trace is not None),
        ("--trace-fit", arguments.trace_fit, "--trace", arguments.trace is not None),
        ("--context", arguments.context, "--trace", arguments.trace is not None),
    ):
        if value is not None and not is_given:
            raise InvalidConfig(f"{option} needs {needed}")
    if arguments.trace_speed is not None and arguments.rate is not None:
        raise InvalidConfig("--trace-speed and --rate both say how fast the trace is played; give one")
    if arguments.trace_speed is not None and not 0 < arguments.trace_speed < float("inf"):
        raise InvalidConfig(f"--trace-speed is {arguments.trace_speed:g}; give a positive number")
    for name, number in (
        ("--prefix-tokens", arguments.prefix_tokens),
        ("--prefix-groups", arguments.prefix_groups),
        ("--context", arguments.context),
    ):
        if number is not None and number < 1:
            raise InvalidConfig(f"{name} is {number}; give 1 or more")
    output = Lengths.parse(arguments.output_tokens, "--output-tokens") if arguments.output_tokens else None
    return WorkloadOptions(
        prompts=arguments.prompts,
        is_shuffled=arguments.shuffle,
        trace=arguments.trace,
        trace_speed=arguments.trace_speed or 1.0,
        trace_fit=arguments.trace_fit or "scale",
        input=Lengths.parse(arguments.input_tokens, "--input-tokens")
        if arguments.input_tokens
        else DEFAULT_INPUT,
        output=output or (None if has_file else DEFAULT_OUTPUT),
        prefix_tokens=arguments.prefix_tokens or 0,
        prefix_groups=arguments.prefix_groups or 1,
        context=arguments.context,
    )


def _writable(path: Path | None, option: str) -> Path | None:
    """Said before the run, not after an hour of it."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise InvalidConfig(f"{option} {path}: there is no folder {path.parent} to write it into")
    return path
