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

from narrows.bench.arrivals import MAX_REQUESTS, SHAPES, Shape, sweep_rates
from narrows.bench.client import ROUTE_PATHS, Route
from narrows.bench.slo import parse_slo
from narrows.bench.synthetic import Lengths
from narrows.bench.traces import FITS, Fit
from narrows.errors import InvalidConfig

API_KEY_VARIABLE = "NARROWS_API_KEY"
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


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        nargs="?",
        default="",
        metavar="URL|MODEL",
        help="a server (http://...), or a model to start 'narrows serve' with; default: the embedded one",
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("A.json", "B.json"), type=Path, help="compare two results of --output"
    )
    _server_options(parser.add_argument_group("server"))
    _load_options(parser.add_argument_group("load"))
    _workload_options(parser.add_argument_group("workload"))
    group = parser.add_argument_group("result")
    group.add_argument("--slo", help="what a good answer takes at most: ttft=500ms,tpot=50ms,e2e=10s")
    group.add_argument("--output", type=Path, metavar="FILE", help="the result with every request, as JSON")
    group.add_argument("--html", type=Path, metavar="FILE", help="the result as one self-contained page")
    group.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")


def _server_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", help="name to ask for; default: the first that /v1/models lists")
    group.add_argument("--route", choices=tuple(ROUTE_PATHS), help="default: chat, or what the URL ends with")
    group.add_argument("--api-key", help=f"default: the environment's {API_KEY_VARIABLE}")
    group.add_argument(
        "--serve",
        default="",
        metavar="WORDS",
        help="options for our own server: --serve='--weights q4 --threads 2'",
    )
    group.add_argument("--temperature", type=float, default=0.0, help="default: %(default)s")
    group.add_argument(
        "--stop-at-eos",
        action="store_true",
        help="answers may end early; default: ignore_eos is sent where the server takes it",
    )
    group.add_argument("--extra", metavar="JSON", help="more fields for every request, as a JSON object")
    group.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="of a request, in seconds; default: %(default)g",
    )


def _load_options(group: argparse._ArgumentGroup) -> None:
    how = group.add_mutually_exclusive_group()
    how.add_argument("--rate", type=float, metavar="R", help="open loop: requests per second")
    how.add_argument("--sweep", metavar="RATES", help="open loop at rate after rate: 1,2,4,8 or 1:8:4")
    how.add_argument(
        "--concurrency", type=int, metavar="N", help="closed loop: N users that wait; default: 1"
    )
    group.add_argument("--arrivals", choices=SHAPES, help="of the open loop; default: poisson")
    group.add_argument("--burst-size", type=int, metavar="N", help="requests of a burst; default: 8")
    group.add_argument(
        "--requests", type=int, metavar="N", help="of each rate; default: 100 without --duration"
    )
    group.add_argument("--duration", type=float, metavar="S", help="seconds of sending, of each rate")
    group.add_argument("--warmup", type=int, default=2, metavar="N", help="requests not counted; default: 2")
    group.add_argument("--seed", type=int, default=0, help="the same seed gives the same load; default: 0")


def _workload_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--prompts", type=Path, metavar="FILE", help="JSONL of prompts, messages or turns")
    group.add_argument("--shuffle", action="store_true", help="prompts of the file in a random order")
    group.add_argument("--trace", type=Path, metavar="FILE", help="Azure (CSV) or Mooncake (JSONL)")
    group.add_argument(
        "--trace-speed", type=float, metavar="X", help="times as fast; or give --rate for the mean"
    )
    group.add_argument("--trace-fit", choices=FITS, help="too long for the context; default: scale")
    group.add_argument("--context", type=int, metavar="N", help="tokens of the server; default: as it says")
    group.add_argument("--input-tokens", metavar="N|LOW:HIGH", help="of synthetic prompts; default: 64")
    group.add_argument("--output-tokens", metavar="N|LOW:HIGH", help="default: 64, or the prompt file's own")
    group.add_argument("--prefix-tokens", type=int, metavar="N", help="that synthetic prompts have in common")
    group.add_argument("--prefix-groups", type=int, metavar="K", help="different such prefixes; default: 1")


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
