"""The words of `narrows bench`: what argparse knows. Their checks are in options.py."""

from __future__ import annotations

import argparse
from pathlib import Path

from narrows.bench.arrivals import SHAPES
from narrows.bench.client import ROUTE_PATHS
from narrows.bench.traces import FITS

API_KEY_VARIABLE = "NARROWS_API_KEY"


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
