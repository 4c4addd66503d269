"""What a user may choose about running a model on the CPU, checked.

In: values from the command line or the API. Out: CpuOptions; InvalidConfig names the option and what it
takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from narrows.errors import InvalidConfig
from narrows.kernels.formats import GROUPS
from narrows.runners.plan import HEAD_KINDS, WEIGHTS_KINDS, HeadKind, WeightsKind

KvDtype = Literal["auto", "f16", "f32", "int8"]
AttentionKind = Literal["auto", "f32", "int8"]


@dataclass(frozen=True, slots=True)
class CpuOptions:
    """None: chosen by the runner from the model and the machine."""

    weights: WeightsKind = "auto"
    group: int | None = None  # inputs per scale, q8 and q4
    head: HeadKind = "auto"  # auto: q8 and q4 have 8 bits in two planes; else as the weights
    threads: int | None = None
    kv_dtype: KvDtype = "auto"  # int8 where weights are q4 and the keys bear it, else f16
    attention: AttentionKind = "auto"  # of prompts; auto: int8 where weights are q4
    kv_memory_bytes: int | None = None
    num_blocks: int | None = None  # takes precedence over kv_memory_bytes
    max_context: int | None = None
    max_step_tokens: int = 512
    cache: bool = True  # keep packed weights on disk

    def __post_init__(self) -> None:
        _one_of("weights", self.weights, WEIGHTS_KINDS)
        _one_of("group", self.group, (None, *GROUPS))
        _one_of("head", self.head, HEAD_KINDS)
        _one_of("kv_dtype", self.kv_dtype, ("auto", "f16", "f32", "int8"))
        _one_of("attention", self.attention, ("auto", "f32", "int8"))
        if self.attention == "int8" and self.kv_dtype == "f32":
            raise InvalidConfig(
                "attention is 'int8', which reads keys and values of 16 or 8 bits; kv_dtype must not be 'f32'"
            )
        _within("threads", self.threads, 1, 1024)
        _within("kv_memory_bytes", self.kv_memory_bytes, 1, 1 << 50)
        _within("num_blocks", self.num_blocks, 1, (1 << 31) - 1)
        _within("max_context", self.max_context, 1, 1 << 27)
        _within("max_step_tokens", self.max_step_tokens, 1, 1 << 20)


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise InvalidConfig(
            f"{name} is {value!r}; it must be one of {', '.join(str(choice) for choice in choices)}"
        )


def _within(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high
    ):
        raise InvalidConfig(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
