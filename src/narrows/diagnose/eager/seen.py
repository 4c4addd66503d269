"""What was seen of a service under torch, as plain values: no torch in here.

Written by profiling.py and the two kinds of services; read by the arithmetic beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from narrows.diagnose.eager.groups import Group

Name = Literal["prefill", "decode", "unit"]


@dataclass(frozen=True, slots=True)
class Unit:
    """Something to be timed. `reset` runs after each, outside of its time."""

    name: Name
    run: Callable[[], object]
    tokens: int = 0
    streams: int = 1
    context: int = 0
    reset: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one group over one unit, from the shapes of its tensors."""

    calls: int = 0
    flops: int = 0  # 2 per multiply-add; of causal attention only the pairs that the mask leaves
    read_bytes: int = 0
    written_bytes: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(
            self.calls + other.calls,
            self.flops + other.flops,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """One unit under torch.profiler: self time of every group on the thread that called it.

    On a GPU `seconds` are of the GPU, and `busy_s` is their sum.
    """

    wall_s: float
    seconds: Mapping[Group, float]
    calls: int  # operators
    threads_seen: int = 1  # that ran operators
    launches: int = 0
    syncs: int = 0
    busy_s: float | None = None  # None: no GPU


@dataclass(frozen=True, slots=True)
class Run:
    """A unit as it was timed. `profile` and `counts` None: interrupted before."""

    name: Name
    wall_s: float  # without the profiler
    num_timed: int
    tokens: int
    streams: int
    context: int
    profile: Profile | None = None
    counts: Mapping[Group, Counts] = field(default_factory=dict)
    dense_flops: int = 0  # as torch.utils.flop_counter counts: every pair of a causal attention
    main_thread: float = 1.0  # share of the wall time that the calling thread was on a core


@dataclass(frozen=True, slots=True)
class Threads:
    """As torch was found to be set: nothing was changed for the diagnosis."""

    intra: int
    inter: int
    environment: Mapping[str, str] = field(default_factory=dict)  # OMP_NUM_THREADS and its like, where set

    def words(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in sorted(self.environment.items()))
        return (
            f"{self.intra} thread{'s' if self.intra > 1 else ''} in an operator, {self.inter} between "
            "operators "
            f"({given or 'torch defaults: no thread variable is set'})"
        )


@dataclass(frozen=True, slots=True)
class Service:
    """What was timed. Zero layers, context and bytes of keys: a module that is no language model."""

    name: str
    family: str
    words: str  # "transformers 5.0 on torch 2.13, bfloat16, sdpa attention, on cpu"
    dtype: str  # of most weights: float32, bfloat16, float16 or what torch calls it
    device: Literal["cpu", "cuda"]
    parameters: int
    weight_bytes: int
    threads: Threads
    layers: int = 0
    kv_bytes_per_token: int = 0
    max_context: int = 0
    is_language_model: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rate:
    """Products by torch in one number format, 1e9 operations a second (a multiply-add is two)."""

    matrix: float  # square matrices
    vector: float  # one row times a matrix too large for any cache


@dataclass(frozen=True, slots=True)
class EagerCeilings:
    """Measured beside the units; `rates` by number format."""

    gb_per_s: float  # over as many bytes as the model has
    cache_gb_per_s: float  # over the bytes of a small operator
    cache_bytes: int
    gflop_per_s: float  # in the format of the weights: the hardware's, or the best that torch reached
    rates: Mapping[str, Rate] = field(default_factory=dict)
    call_s: float = 0.0  # of an operator on a single number: what calling costs
    granted: int = 1  # CPUs that may be used at once
    granted_rate: Rate | None = None  # own format, `granted` threads; None: those are the present ones
    native_bf16: bool | None = None  # as the CPU's flags say; None: unknown
