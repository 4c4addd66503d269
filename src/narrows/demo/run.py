"""`narrows demo`: a server, one streamed answer from it, and how fast that was.

In: a model (default: the embedded one). Out: the text as it arrives and a line for each figure. The server
runs in a process of its own and is asked over a socket, as any client would.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from narrows.demo.figures import Ceiling, StreamFigures, lines
from narrows.demo.server_process import ServerFailed, ServerProcess
from narrows.demo.sse_client import StreamFailed, read_gauge, stream_chat, wait_until_ready
from narrows.errors import InvalidConfig
from narrows.serve.options import add_model_options, model_words

DEMO_NAME = "demo"
STORY = "Tell me a story about a little fox who finds a lost kite."


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser, speculation=False)  # the figures count the bytes of one step a token
    parser.add_argument("--prompt", default=STORY, help="what to ask; default: for a story")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same text")


def run(arguments: argparse.Namespace) -> int:
    if arguments.max_tokens < 2:
        raise InvalidConfig(f"--max-tokens is {arguments.max_tokens}; a speed needs at least 2")
    try:
        figures = _ask(arguments)
    except ServerFailed as error:  # it has said why
        return error.exit_code
    # Measured only now: a server waiting for work would take its share of the bandwidth.
    print("\n".join(lines(figures, _ceiling(arguments.threads, figures))))
    return 0


def _ask(arguments: argparse.Namespace) -> StreamFigures:
    with ServerProcess([*model_words(arguments), "--served-model-name", DEMO_NAME]) as server:
        print("\n".join(server.lines))
        load_s = wait_until_ready(server.url) - server.began_s
        print(f"\n> {arguments.prompt}\n")
        return _stream(server.url, arguments, load_s=load_s)


def _stream(url: str, arguments: argparse.Namespace, *, load_s: float) -> StreamFigures:
    request = {
        "model": DEMO_NAME,
        "messages": [{"role": "user", "content": arguments.prompt}],
        "max_tokens": arguments.max_tokens,
        "temperature": arguments.temperature,
        "seed": arguments.seed,
    }
    first_s: float | None = None
    last_s = 0.0
    usage: Mapping[str, Any] = {}
    for piece in stream_chat(url, request):
        if piece.text and first_s is None:
            first_s = piece.since_sent_s
        if piece.usage is None:
            last_s = piece.since_sent_s
        usage = piece.usage or usage
        sys.stdout.write(piece.text)
        sys.stdout.flush()
    print("\n")
    if first_s is None or not usage:
        raise StreamFailed("the model ended its answer without a word; try another --seed or --prompt")
    return StreamFigures(
        load_s=load_s,
        first_text_s=first_s,
        last_event_s=last_s,
        num_prompt=usage["prompt_tokens"],
        num_output=usage["completion_tokens"],
        weight_bytes_per_step=read_gauge(url, "narrows_weight_bytes_per_step"),
        kv_bytes_per_token=read_gauge(url, "narrows_kv_bytes_per_token"),
    )


def _ceiling(threads: int | None, figures: StreamFigures) -> Ceiling:
    from narrows import _core
    from narrows.machine.bandwidth import last_level_cache_bytes, measure

    threads = threads or _core.effective_cpus()
    cache_bytes, model_bytes = last_level_cache_bytes(), int(figures.weight_bytes_per_step)
    in_cache = measure(threads, num_bytes=model_bytes, repeats=50) if model_bytes < cache_bytes else None
    return Ceiling(measure(threads).gb_per_s, cache_bytes, None if in_cache is None else in_cache.gb_per_s)
