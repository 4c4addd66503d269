"""The options of `narrows diagnose --url`. In: an argument parser, later its values. Out: a frozen Outside.

Raises InvalidConfig where an option is about a model that is run here: none is ignored.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from narrows.bench.arguments import API_KEY_VARIABLE
from narrows.bench.client import Route
from narrows.diagnose.workload import DEFAULT_STREAMS, PRESETS, Workload, read_workload
from narrows.errors import InvalidConfig

# What says something about a server from outside; all other options are about a model that is run here.
TAKEN: Final = (
    "url",
    "seconds",
    "timeout",
    "ask_model",
    "route",
    "api_key",
    "workload",
    "concurrency",
    "json",
    "html",
)
LEAST_S, MOST_S = 2.0, 3600.0


@dataclass(frozen=True, slots=True)
class Outside:
    """`page`: where the report goes as a page."""

    url: str
    model: str | None
    route: Route | None
    api_key: str | None
    seconds: float
    timeout_s: float
    workload: Workload
    as_json: bool
    page: Path | None


def read_options(arguments: argparse.Namespace, defaults: argparse.Namespace) -> Outside:
    """`defaults`: of the same parser without any option."""
    for name, value in vars(arguments).items():
        if name not in TAKEN and value != getattr(defaults, name, None):
            shown = "a model" if name == "model" else f"--{name.replace('_', '-')}"
            raise InvalidConfig(
                f"{shown} is about a model that is run here, and --url asks a server that runs already: "
                "leave one of them out"
            )
    seconds, timeout_s = arguments.seconds, arguments.timeout
    if not LEAST_S <= seconds <= MOST_S:
        raise InvalidConfig(f"--seconds is {seconds:g}; it must be from {LEAST_S:g} to {MOST_S:g}")
    if not 0 < timeout_s <= MOST_S:
        raise InvalidConfig(f"--timeout is {timeout_s:g}; give seconds above 0")
    page = None if arguments.html is None else Path(arguments.html)
    if page is not None and (page.is_dir() or not page.parent.is_dir()):
        raise InvalidConfig(f"--html {page}: give a file in a folder that exists")
    return Outside(
        arguments.url,
        arguments.ask_model,
        arguments.route,
        arguments.api_key or os.environ.get(API_KEY_VARIABLE),
        seconds,
        timeout_s,
        _workload(arguments),
        arguments.json,
        page,
    )


def _workload(arguments: argparse.Namespace) -> Workload:
    """A server is rarely asked by one user: presets of a single stream mean four here."""
    found = read_workload(arguments.workload, streams=arguments.concurrency)
    if arguments.concurrency is None and arguments.workload in PRESETS and found.streams == 1:
        return replace(found, streams=DEFAULT_STREAMS)
    return found
