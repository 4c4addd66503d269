"""`narrows serve`: opens a model and serves it until SIGTERM or Ctrl-C.

In: the command line and NARROWS_API_KEY. Out: a few lines on stdout, then HTTP. The heavy imports wait
until the options are known to be right.
"""

from __future__ import annotations

import argparse
import logging
import socket
import time

from narrows.serve.config import API_KEY_VARIABLE, ServeConfig, read_api_keys
from narrows.serve.options import OpenedModel, add_model_options, open_model
from narrows.serve.progress import packing_progress

LOG_LEVELS = ("debug", "info", "warning", "error")
PLACEHOLDER_NAME = "model"  # until the model is known


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    defaults = ServeConfig((PLACEHOLDER_NAME,))
    group = parser.add_argument_group("server")
    group.add_argument("--host", default=defaults.host, help="default: %(default)s, this machine only")
    group.add_argument(
        "--port", type=int, default=defaults.port, help="default: %(default)s; 0: any free port"
    )
    group.add_argument(
        "--served-model-name", action="append", metavar="NAME", help="may be given several times"
    )
    group.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help=f"several with commas; also read from {API_KEY_VARIABLE}",
    )
    group.add_argument("--api-key-file", metavar="FILE", help="one key a line")
    _add_limits(group, defaults)
    group.add_argument("--log-level", choices=LOG_LEVELS, default="warning", help="default: %(default)s")


def _add_limits(group: argparse._ArgumentGroup, defaults: ServeConfig) -> None:
    for name, kind, default, unit, text in (
        ("--max-body", int, defaults.max_body_bytes, "BYTES", "the largest request body"),
        ("--ping-interval", float, defaults.ping_interval_s, "S", "seconds a stream may be silent"),
        (
            "--drain-timeout",
            float,
            defaults.drain_timeout_s,
            "S",
            "seconds for running answers after SIGTERM",
        ),
    ):
        group.add_argument(
            name, type=kind, default=default, metavar=unit, help=f"{text}; default: %(default)s"
        )


def run(arguments: argparse.Namespace) -> int:
    began_s = time.perf_counter()
    logging.basicConfig(
        level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    config = _config(arguments)
    from narrows.serve.server import bind

    with bind(config) as listener:
        with packing_progress() as progress:
            opened = open_model(arguments, progress=progress)
        try:
            _serve(_config(arguments, default_name=opened.name), opened, listener, began_s=began_s)
        finally:
            opened.client.close()
    return 0


def _serve(config: ServeConfig, opened: OpenedModel, listener: socket.socket, *, began_s: float) -> None:
    from narrows.serve.banner import banner
    from narrows.serve.metrics import Metrics
    from narrows.serve.server import serve_until_stopped, url_of
    from narrows.serve.service import Service

    metrics = Metrics(config.model_names[0], opened.client)
    service = Service(config, opened.client, opened.tokenizer, metrics)

    def announce() -> None:
        print(banner(opened, url_of(listener), start_s=time.perf_counter() - began_s), flush=True)

    serve_until_stopped(service, listener, on_listening=announce)


def _config(arguments: argparse.Namespace, *, default_name: str = PLACEHOLDER_NAME) -> ServeConfig:
    return ServeConfig(
        model_names=tuple(arguments.served_model_name or [default_name]),
        host=arguments.host,
        port=arguments.port,
        api_keys=read_api_keys(arguments.api_key, arguments.api_key_file),
        max_body_bytes=arguments.max_body,
        ping_interval_s=arguments.ping_interval,
        drain_timeout_s=arguments.drain_timeout,
    )
