"""The options of `narrows diagnose`, and what they mean for the model that is diagnosed.

In: an argument parser, later its values. Out: CpuOptions, a link, the words that repeat the options.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, get_args

from narrows.errors import InvalidConfig
from narrows.machine.profile import Link
from narrows.report import Target

if TYPE_CHECKING:
    from narrows.runners.options import AttentionKind, KvDtype

GROUPED: Final = ("q8", "q4")  # with scales per group
DEFAULT_SECONDS: Final = 60.0
DEFAULT_TIMEOUT_S: Final = 30.0
OUTSIDE_ONLY: Final = ("seconds", "timeout", "ask_model", "route", "api_key")
_LINK: Final = re.compile(r"(\d+(?:\.\d+)?)us,(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Weights, threads and chunks as asked for; None: as `narrows serve` would choose."""

    weights: str = "auto"
    group: int | None = None
    head: str = "auto"
    attention: AttentionKind = "auto"
    kv: KvDtype = "auto"
    threads: int | None = None
    chunk: int | None = None
    max_context: int | None = None

    def __post_init__(self) -> None:
        if self.group is not None and self.weights not in GROUPED:
            raise InvalidConfig(
                f"--group-size has no meaning for --weights {self.weights}; "
                f"choose --weights {' or '.join(GROUPED)}, or leave it out"
            )
        for name, value in (("threads", self.threads), ("prefill-chunk", self.chunk)):
            if value is not None and not 1 <= value <= 1024:
                raise InvalidConfig(f"--{name} is {value}; it must be from 1 to 1024")

    def words(self) -> dict[str, str]:
        """What differs from the defaults, as options of `narrows serve`."""
        given = {
            "weights": None if self.weights == "auto" else self.weights,
            "group-size": self.group,
            "head": None if self.head == "auto" else self.head,
            "attention": None if self.attention == "auto" else self.attention,
            "kv-dtype": None if self.kv == "auto" else self.kv,
            "threads": self.threads,
            "prefill-chunk": self.chunk,
            "max-context": self.max_context,
        }
        return {name: str(value) for name, value in given.items() if value is not None}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="model folder, hub id or a bare config.json; default: the embedded small model",
    )
    parser.add_argument(
        "--workload",
        default="chat",
        metavar="NAME|FILE",
        help="chat, code, rag, classify, or a file: JSONL with prompt_tokens and output_tokens or prompt, "
        "or a trace in the shape of Azure's or Mooncake's; default: chat",
    )
    parser.add_argument(
        "--concurrency", type=int, metavar="N", help="streams at once; default: the workload's"
    )
    parser.add_argument(
        "--rate", type=float, metavar="PER_S", help="requests per second; default: of the file's times"
    )
    parser.add_argument(
        "--target",
        choices=get_args(Target),
        help="what remedies are ranked by; default: tpot, or ttft where answers have one token",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--html", metavar="FILE", help="write the report as one page")
    parser.add_argument(
        "--check", action="store_true", help="apply what can be applied here and compare with the predictions"
    )
    parser.add_argument("--config-only", action="store_true", help="read config.json alone and run nothing")
    parser.add_argument("--offline", action="store_true", help="never ask the hub")
    _add_outside(parser)
    _add_model(parser)
    _add_torch(parser)
    group = parser.add_argument_group("several hosts, by arithmetic")
    group.add_argument("--hosts", type=int, default=1, metavar="K", help="default: 1")
    group.add_argument(
        "--link",
        metavar="LATENCY,GB/S",
        help="between them, such as 50us,1.2; default: the slowest that `narrows machine` measured to a peer",
    )


def _add_outside(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a server that runs already, from outside")
    group.add_argument("--url", help="any OpenAI-compatible server: http://host:8000; it is put under load")
    group.add_argument(
        "--seconds", type=float, default=DEFAULT_SECONDS, help="at most, in all; default: %(default)g"
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="S",
        help="of a request; default: %(default)g",
    )
    group.add_argument("--ask-model", metavar="NAME", help="default: the first that /v1/models lists")
    group.add_argument("--route", choices=("chat", "completions"), help="default: chat, or as the URL ends")
    group.add_argument("--api-key", help="default: the environment's NARROWS_API_KEY")


def defaults() -> argparse.Namespace:
    """What every option is where it is not given."""
    parser = argparse.ArgumentParser()
    configure(parser)
    return parser.parse_args([])


def refuse_outside(arguments: argparse.Namespace) -> None:
    """Without --url the options of a server mean nothing. Raises InvalidConfig."""
    if arguments.model is not None and arguments.model.startswith(("http://", "https://")):
        raise InvalidConfig(f"{arguments.model} is a server, not a model; write --url {arguments.model}")
    unused = defaults()
    for name in OUTSIDE_ONLY:
        if getattr(arguments, name) != getattr(unused, name):
            raise InvalidConfig(f"--{name.replace('_', '-')} needs --url; it says how a server is asked")


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model as it runs now", "as of `narrows serve`")
    for name, choices in (
        ("--weights", ("auto", "f32", "f16", "bf16", "q8", "q4")),
        ("--head", ("auto", "q8", "q4")),
        ("--attention", ("auto", "f32", "int8")),
        ("--kv-dtype", ("auto", "f16", "f32", "int8")),
    ):
        group.add_argument(name, choices=choices, default="auto")
    for name, unit in (
        ("--group-size", "N"),
        ("--threads", "N"),
        ("--prefill-chunk", "TOKENS"),
        ("--max-context", "TOKENS"),
    ):
        group.add_argument(name, type=int, metavar=unit)


def _add_torch(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "your present service",
        "timed by torch.profiler instead of Narrows; needs: pip install 'narrows[torch]'",
    )
    group.add_argument(
        "--torch",
        action="store_true",
        help="time the model under transformers, beside it what Narrows would do; with --check, what it does",
    )
    group.add_argument(
        "--torch-module",
        metavar="PACKAGE.MODULE:FACTORY",
        help="time any torch module: FACTORY() returns (module, run), where run() does one unit of work, or "
        "(module, inputs)",
    )
    group.add_argument(
        "--torch-dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the weights under --torch; default: the checkpoint's own",
    )
    group.add_argument(
        "--torch-device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="under --torch; default: a GPU where torch sees one",
    )
    group.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python that lies in the model's folder; without it such models are refused",
    )


def check_torch(arguments: argparse.Namespace) -> bool:
    """Whether torch is to be timed. InvalidConfig for options that contradict each other."""
    named = (
        ("--torch-dtype", arguments.torch_dtype != "auto"),
        ("--torch-device", arguments.torch_device != "auto"),
        ("--trust-remote-code", arguments.trust_remote_code),
    )
    if given := [name for name, is_given in named if is_given and not arguments.torch]:
        raise InvalidConfig(f"{', '.join(given)} has a meaning with --torch only")
    if arguments.torch_module is None:
        if arguments.torch and arguments.config_only:
            raise InvalidConfig("--torch runs the model and --config-only does not; leave one of them out")
        return bool(arguments.torch)
    if arguments.torch:
        raise InvalidConfig("--torch times a model, --torch-module a module of yours; leave one of them out")
    if arguments.model is not None or arguments.config_only or arguments.check:
        raise InvalidConfig("--torch-module takes no MODEL, no --config-only and no --check")
    return True


def model_choice(arguments: argparse.Namespace) -> ModelChoice:
    return ModelChoice(
        arguments.weights,
        arguments.group_size,
        arguments.head,
        arguments.attention,
        arguments.kv_dtype,
        arguments.threads,
        arguments.prefill_chunk,
        arguments.max_context,
    )


def read_link(text: str | None, measured: tuple[Link, ...]) -> Link | None:
    """As given, else the slowest measured to another host."""
    if text is None:
        others = [link for link in measured if link.peer != "loopback"]
        return max(others, key=lambda link: link.latency_s, default=None)
    found = _LINK.fullmatch(text.strip())
    if found is None or not float(found[2]) > 0:
        raise InvalidConfig(f"--link is {text!r}; write latency and bandwidth, such as 50us,1.2 (GB/s)")
    return Link("as given", float(found[1]) * 1e-6, float(found[2]))
