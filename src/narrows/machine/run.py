"""`narrows machine`: measures this machine, or answers those that measure their link to it.

In: the command line. Out: a table or JSON on stdout, a progress bar and warnings on stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from narrows.errors import InvalidConfig
from narrows.machine.links import Address, parse_address
from narrows.machine.listener import Listener
from narrows.machine.profile import MachineProfile

if TYPE_CHECKING:  # the core is loaded to measure, not for --help or --listen
    from narrows.machine.survey import Progress

LOCAL: Final = "127.0.0.1"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the profile as JSON, every figure")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="measure anew, whatever was stored for this machine",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: as many as Narrows would use")
    parser.add_argument(
        "--disk",
        type=Path,
        metavar="PATH",
        help="a folder on the disk to measure; default: that of packed weights",
    )
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="ask torch for GPUs even where no device file shows one",
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="measure the link to a machine that listens; may be given several times",
    )
    parser.add_argument(
        "--listen",
        metavar="[HOST:]PORT",
        help=f"answer --peer of other machines instead, until Ctrl-C; default HOST: {LOCAL}, this machine "
        "only; port 0: any free one",
    )


def run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(format="%(message)s", level=logging.INFO if arguments.listen else logging.WARNING)
    if arguments.listen is not None:
        return _listen(arguments)
    from narrows.machine.measure import MachineOptions, measure_machine
    from narrows.machine.survey import SurveyInterrupted

    options = MachineOptions(
        threads=arguments.threads,
        disk=arguments.disk,
        peers=tuple(arguments.peer),
        gpu=arguments.gpu,
        fresh=arguments.fresh,
    )
    began = datetime.now(UTC)
    try:
        with _progress_bar() as progress:
            profile = measure_machine(options, progress=progress)
    except SurveyInterrupted as stopped:
        _show(stopped.profile, as_json=arguments.json, began=began)
        raise
    _show(profile, as_json=arguments.json, began=began)
    return 0


def _show(profile: MachineProfile, *, as_json: bool, began: datetime) -> None:
    if as_json:
        print(json.dumps(profile.to_json(), indent=2))
        return
    from narrows.machine.table import lines

    measured = datetime.fromisoformat(profile.measured_at)
    print("\n".join(lines(profile, stored=measured < began - timedelta(seconds=1))))


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    """On stderr, where somebody looks, once there is something to wait for."""
    shown: list[Any] = []

    def show(part: str, num_done: int, num_total: int) -> None:
        if not shown:
            from tqdm import tqdm

            shown.append(tqdm(total=num_total, unit="part", leave=False, disable=None))
        shown[0].set_description(f"measuring: {part}")
        shown[0].update(num_done - shown[0].n)

    try:
        yield show
    finally:
        for bar in shown:
            bar.close()


def _listen(arguments: argparse.Namespace) -> int:
    measuring = ("json", "fresh", "threads", "disk", "gpu", "peer")
    others = [name for name in measuring if getattr(arguments, name)]
    if others:
        raise InvalidConfig(f"--listen only answers others; it does not go with --{others[0]}")
    address = parse_address(arguments.listen, option="--listen", host=LOCAL)
    with _bind(address) as listening:
        bound = Address(address.host, listening.getsockname()[1])
        print(f"listening on {bound}; Ctrl-C ends. On the other machine: narrows machine --peer {bound}")
        if address.host == LOCAL:
            print(f"(only this machine reaches {LOCAL}; others do with --listen ADDRESS:{bound.port})")
        sys.stdout.flush()
        try:
            Listener(listening).run()
        except KeyboardInterrupt:
            print("ended")
    return 0


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise InvalidConfig(f"cannot listen on {address}: {error.strerror or error}") from error
