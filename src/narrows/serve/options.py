"""The options about a model that serve, chat and demo share, and the model they open.

In: an argument parser, later its values. Out: an OpenedModel: the running engine, its tokenizer and how
loading went. Knows no HTTP.
"""

from __future__ import annotations

import argparse
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from narrows.engine.client import EngineClient
from narrows.engine.config import SPECULATION_KINDS, EngineConfig
from narrows.engine.load import LoadedEngine, Progress, load_engine
from narrows.errors import InvalidConfig, InvalidRequest

if TYPE_CHECKING:
    from narrows.models.tokenizer import Tokenizer

EMBEDDED_NAME = "narrows-stories"  # the model inside the package
WEIGHTS_KINDS = ("auto", "f32", "f16", "bf16", "q8", "q4")  # runners.plan checks them again
GROUPED_KINDS = ("q8", "q4")  # with scales per group
HEAD_KINDS = ("auto", "q8", "q4")
ATTENTION_KINDS = ("auto", "f32", "int8")
KV_DTYPES = ("auto", "f16", "f32", "int8")
MAX_SIZE_BYTES = 1 << 60
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """`times_s`: of each phase of loading, in their order."""

    name: str
    loaded: LoadedEngine
    times_s: dict[str, float]

    @property
    def client(self) -> EngineClient:
        return self.loaded.client

    @property
    def tokenizer(self) -> Tokenizer:
        return self.loaded.tokenizer


def add_model_options(parser: argparse.ArgumentParser, *, speculation: bool = True) -> None:
    """`speculation`: with the options for it."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="model folder or hub id; default: the embedded small model"
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "--weights", choices=WEIGHTS_KINDS, default="auto", help="default: auto, as in the checkpoint"
    )
    group.add_argument(
        "--group-size",
        type=int,
        metavar="N",
        help="weights per scale, for q8 and q4: 32, 64 or 128; default: 64 for q4, 128 for q8",
    )
    group.add_argument(
        "--head",
        choices=HEAD_KINDS,
        default="auto",
        help="of the output layer; auto: beside q4 and q8 weights 8 bits, of which a greedy step reads few "
        "but the upper four, else as the weights; q8: always read whole; q4 reads fewer bytes and costs "
        "quality",
    )
    group.add_argument(
        "--attention",
        choices=ATTENTION_KINDS,
        default="auto",
        help="of prompts; auto: int8 beside q4 weights where the keys bear it, else f32",
    )
    group.add_argument(
        "--kv-dtype",
        choices=KV_DTYPES,
        default="auto",
        help="of keys and values; auto: int8 beside q4 weights in the layers whose keys bear it, else f16",
    )
    group.add_argument("--threads", type=int, metavar="N", help="default: the cores this process may use")
    group.add_argument(
        "--max-context", type=int, metavar="TOKENS", help="prompt and answer; default: the model's"
    )
    group.add_argument("--kv-memory", metavar="SIZE", help="memory for keys and values, such as 500M or 2GiB")
    for name, unit, text in (
        ("max_running", "N", "requests in one step"),
        ("max_waiting", "N", "requests queued beyond those"),
        ("prefill_chunk", "TOKENS", "prompt tokens in a step beside answers"),
    ):
        shown = f"{text}; default: {getattr(EngineConfig(), name)}"
        group.add_argument(f"--{name.replace('_', '-')}", type=int, metavar=unit, help=shown)
    group.add_argument("--offline", action="store_true", help="never ask the hub")
    if speculation:
        _add_speculation_options(group)
    else:
        parser.set_defaults(speculation="off", share_drafts=False)


def _add_speculation_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--speculation",
        choices=SPECULATION_KINDS,
        help="verify tokens guessed from the text so far where that is faster; same answers. auto: only "
        "where a step takes a millisecond or more. "
        f"Default: {EngineConfig().speculation}",
    )
    group.add_argument(
        "--share-drafts",
        action="store_true",
        help="guess from other requests' outputs too: their timing then tells of each other",
    )


def model_words(arguments: argparse.Namespace) -> list[str]:
    """The same options as words of a command line, to start another process with them."""
    words = [] if arguments.model is None else [str(arguments.model)]
    names = ("weights", "group_size", "head", "attention", "kv_dtype", "threads", "max_context", "kv_memory")
    for name in (*names, "max_running", "max_waiting", "prefill_chunk", "speculation"):
        value = getattr(arguments, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for name in ("share_drafts", "offline"):
        if getattr(arguments, name):
            words.append(f"--{name.replace('_', '-')}")
    return words


def open_model(arguments: argparse.Namespace, *, progress: Progress | None = None) -> OpenedModel:
    """Loads the model and starts its engine. Imports the core here: `--help` must not wait for it."""
    from narrows.runners.options import CpuOptions

    given = {
        "group": arguments.group_size,
        "kv_memory_bytes": None if arguments.kv_memory is None else size_bytes(arguments.kv_memory),
        "threads": arguments.threads,
        "max_context": arguments.max_context,
    }
    options = CpuOptions(
        weights=arguments.weights,
        head=arguments.head,
        attention=arguments.attention,
        kv_dtype=arguments.kv_dtype,
        **{name: value for name, value in given.items() if value is not None},
    )
    if arguments.group_size is not None and arguments.weights not in GROUPED_KINDS:
        raise InvalidConfig(
            f"--group-size has no meaning for --weights {arguments.weights}; "
            f"choose --weights {' or '.join(GROUPED_KINDS)}, or leave it out"
        )
    loaded = load_engine(
        arguments.model,
        options=options,
        config=_engine_config(arguments),
        offline=arguments.offline,
        progress=progress,
    )
    times_s = {**loaded.info.times_s, "template": _warm_template(loaded.tokenizer)}
    name = EMBEDDED_NAME if arguments.model is None else _shown_name(arguments.model, loaded.info.name)
    return OpenedModel(name, loaded, times_s)


def _warm_template(tokenizer: Tokenizer) -> float:
    """Renders a first conversation, as the template engine is imported and compiles then; the seconds that
    took.
    """
    began_s = time.perf_counter()
    if tokenizer.has_chat_template:
        # A template may refuse this one conversation; a request that it refuses will be told why.
        with suppress(InvalidRequest):
            tokenizer.encode(tokenizer.render_chat([{"role": "user", "content": "hi"}]), add_special=False)
    return time.perf_counter() - began_s


def size_bytes(text: str) -> int:
    """500M, 2GiB, 1.5g, 4096: K, M, G, T are powers of 1000, with an i of 1024."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidConfig(f"'{text}' is no size; write a number of bytes, or one such as 500M or 2GiB")
    number, unit, binary = found.groups()
    num_bytes = float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()]
    if not num_bytes < MAX_SIZE_BYTES:
        raise InvalidConfig(f"'{text[:40]}' is more than any machine has; write a size such as 500M or 2GiB")
    return int(num_bytes)


def _engine_config(arguments: argparse.Namespace) -> EngineConfig:
    names = ("max_running", "max_waiting", "max_context", "prefill_chunk", "speculation", "share_drafts")
    return EngineConfig(**{name: value for name in names if (value := getattr(arguments, name)) is not None})


def _shown_name(given: str, folder_name: str) -> str:
    """A hub id as it is; of a folder only its name, as paths are nobody else's business."""
    return folder_name if Path(given).expanduser().exists() else given.partition("@")[0]
