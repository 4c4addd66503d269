"""The native core as Python sees it (cpp/bindings). Arguments are checked here, once; the GIL is released in long calls.

Wrong arguments raise ValueError or TypeError naming the argument; a forced but missing instruction set RuntimeError.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LAYOUT_VERSION: int
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]  # uint16 = bf16 bits

def isa() -> str:
    """The selected instruction set: generic, avx2 or avx512vnni (forced by NARROWS_ISA)."""

def available_isas() -> list[str]: ...
def effective_cpus() -> int:
    """min(affinity, cgroup quota, physical cores)."""

class CpuLimits:
    """What limits the threads of this process."""

    @property
    def affinity(self) -> list[int]: ...
    @property
    def physical(self) -> int:
        """Distinct cores of the affinity, as the kernel tells."""

    @property
    def quota_cpus(self) -> float:
        """CPUs that a cgroup grants; 0: no quota."""

    @property
    def quota_version(self) -> int:
        """Of cgroups: 1 or 2; 0: no quota."""

    @property
    def quota_folder(self) -> str:
        """Of the group that sets it."""

    @property
    def threads(self) -> int:
        """effective_cpus()."""

def cpu_limits(root: str = "") -> CpuLimits:
    """`root` stands before /proc and /sys: for tests."""

class ThreadPool:
    def __init__(self, num_threads: int) -> None: ...
    @property
    def size(self) -> int: ...

def packed_bytes(*, format: str, n: int, k: int, group: int = 0, has_zero: bool = False) -> int:
    """Bytes of a packed matrix. format: f32 | f16 | bf16 | p8 | p44 | p4."""

def pack(
    sources: Sequence[Weights],
    dst: Bytes,
    *,
    format: str,
    group: int,
    has_zero: bool,
    interleave: bool,
    pool: ThreadPool,
) -> tuple[int, float]:
    """Packs 2-D row-major sources, stacked or interleaved, into dst. Returns (non-finite values seen, max |w|)."""

def unpack(data: Bytes, *, format: str, n: int, k: int, group: int = 0, has_zero: bool = False) -> Floats:
    """The whole matrix [n, k] in float: for tests and quality checks."""

def checksum(data: Bytes, pool: ThreadPool) -> int: ...

class WeightFile:
    """Bytes [offset, offset + num_bytes) of an open file, mapped; OSError where the file is too short."""

    def __init__(self, file: int, *, offset: int, num_bytes: int) -> None: ...
    @property
    def data(self) -> Bytes:
        """Read-only; keeps this object alive."""

    def start_moving(self) -> None:
        """Moves the bytes into huge pages behind their readers, in a thread of low priority."""

    def finish_moving(self) -> None:
        """Waits until the moving, if any, has ended."""

    @property
    def moved_bytes(self) -> int: ...

def pack_byte_pairs(
    texts: bytes,
    *,
    text_sizes: npt.NDArray[np.uint32],
    ids: npt.NDArray[np.uint32],
    merges: npt.NDArray[np.uint32],
    symbols: npt.NDArray[np.uint32],
    others: npt.NDArray[np.uint32],
    whole_words: bool,
) -> Bytes:
    """Tables of a byte-pair vocabulary: texts end to end, merges [n * 3] (left, right, new) by rank, symbols [256]."""

class BytePairs:
    """A view of such tables, which it keeps alive; ValueError where they are damaged."""

    def __init__(self, data: Bytes) -> None: ...
    def encode(self, symbols: list[int], words: list[int | None]) -> list[int]:
        """Token ids of symbols (a byte, or 256 + i for others[i]); neighbours of the same word merge."""

    def text(self, id: int) -> str | None: ...
    def id(self, text: str) -> int | None: ...

def read_bandwidth(
    num_bytes: int, repeats: int, pool: ThreadPool, passes: int = 1, segments: int = 1
) -> float:
    """GB/s (1e9 bytes) at which the pool reads memory, best of repeats, each of which reads it `passes` times.

    With several `segments` the best of each piece counts: on a busy machine no whole repeat is undisturbed.
    """

def int8_peak(seconds: float, pool: ThreadPool, isa: str = "") -> float:
    """int8 multiply-accumulates per second (1e9) of all threads of the pool together, registers only."""

def fp32_peak(seconds: float, pool: ThreadPool, isa: str = "") -> float:
    """As int8_peak, in floats."""

def linear(
    data: Bytes,
    x: Floats,
    *,
    format: str,
    n: int,
    group: int = 0,
    has_zero: bool = False,
    isa: str = "",
    pool: ThreadPool | None = None,
) -> Floats:
    """x [rows, k] @ W.T -> [rows, n] through the named (default: selected) instruction set: for tests and benchmarks."""

class Norm:
    def __init__(self, weight: Floats | None = None, bias: Floats | None = None) -> None: ...

class Linear:
    """A packed matrix and its bias; keeps the arrays alive."""

    def __init__(
        self,
        data: Bytes,
        *,
        format: str,
        n: int,
        k: int,
        group: int = 0,
        has_zero: bool = False,
        bias: Floats | None = None,
    ) -> None: ...

class Layer:
    def __init__(
        self,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        intermediate: int,
        window: int,
        rope: int,  # -1: none
        attention_scale: float,
        attention_softcap: float,
        gated: bool,
        activation: str,
        parallel_residual: bool,
        kv: str = "f16",  # of its pages: f16, f32 or int8
        int8_attention: bool = False,  # of prompt rows, over pages of 16 or 8 bits
        qkv: Linear,
        out: Linear,
        up: Linear,
        down: Linear,
        norm_attn: Norm | None = None,
        norm_mlp: Norm | None = None,
        post_attn: Norm | None = None,
        post_mlp: Norm | None = None,
        q_norm: Norm | None = None,
        k_norm: Norm | None = None,
    ) -> None: ...

class Model:
    """Checks that every size fits every other: ValueError names the layer and the tensor."""

    def __init__(
        self,
        *,
        hidden: int,
        vocab: int,
        max_positions: int,
        norm: str,  # rms | layer
        norm_eps: float,
        embedding_scale: float,
        final_softcap: float,
        ropes: Sequence[tuple[Floats, float]],  # (inv_freq, attention_factor)
        layers: Sequence[Layer],
        embedding: Linear | Weights,  # packed, or row-major [vocab, hidden]
        position_rows: Floats | None,
        final_norm: Norm | None,
        head: Linear,
    ) -> None: ...

class KvPages:
    def __init__(self, model: Model, num_blocks: int) -> None: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @staticmethod
    def block_bytes(model: Model) -> int: ...

class Sampler:
    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        seed: int = 0,
        logit_bias: Sequence[tuple[int, float]] = (),
        top_logprobs: int = -1,
        min_tokens: int = 0,
        stop_token_ids: Sequence[int] = (),
        prompt_ids: Sequence[int] = (),
    ) -> None: ...
    def sample(self, logits: Floats) -> tuple[int, float, list[tuple[int, float]]]:
        """(token, logprob, n best) for one row of logits: for tests."""
    def accept(self, token_id: int) -> None: ...

# One sequence of a step: (token_ids, start, block_ids, sampler or None, targets, target_top, prompt_tokens, num_draft).
# The last num_draft tokens are guesses: the sampler draws on as long as it draws what was guessed.
SequenceInput = tuple[Sequence[int], int, Sequence[int], Sampler | None, Sequence[int], int, int, int]
# ([(token or -1 if not finite, logprob, [(token, logprob)]) per drawn token], [(logprob, [(token, logprob)]) per target row])
SequenceOutput = tuple[
    list[tuple[int, float, list[tuple[int, float]]]], list[tuple[float, list[tuple[int, float]]]]
]

class RecentOutputs:
    """The last `capacity` tokens of finished outputs, the oldest overwritten; fixed memory."""

    def __init__(self, capacity: int) -> None: ...
    def add(self, token_ids: Sequence[int]) -> None: ...
    @property
    def bytes(self) -> int: ...

class Chances:
    """How often guesses were right, by the length of their match; each new one leaves `memory` of the old."""

    def __init__(self, memory: float) -> None: ...

class Drafter:
    """Guesses how a text goes on from what stood before in it, or in `recent`. Not thread-safe.

    How good its guesses are it learns from the tokens that come, and tells `everyone`.
    """

    def __init__(self, everyone: Chances | None = None, recent: RecentOutputs | None = None) -> None: ...
    def read(self, token_ids: Sequence[int]) -> None:
        """The prompt."""
    def follow(self, token_ids: Sequence[int], most: int) -> float:
        """Tokens drawn. How many of the next `most` guesses are expected to be right."""
    def draft(self, most: int) -> tuple[list[int], list[float]]:
        """At most `most` guesses; [j]: the chance that the first j + 1 are right. Unlikely ones are left out."""
    @property
    def match_length(self) -> int:
        """Of the text's last tokens so many stood before the place that the guesses come from; 0: nowhere."""
    @property
    def bytes(self) -> int: ...

class Transformer:
    def __init__(self, model: Model, pool: ThreadPool, max_step_tokens: int, isa: str = "") -> None: ...
    def step(self, kv: KvPages, sequences: Sequence[SequenceInput]) -> list[SequenceOutput]:
        """Runs one step and records sampled tokens in their samplers. ValueError for any id, block or size out of range."""
    def step_logits(self, kv: KvPages, sequences: Sequence[SequenceInput]) -> Floats:
        """As step, but returns the logits of every row [rows, vocab] and samples nothing: for tests and quality."""
    @property
    def max_step_tokens(self) -> int: ...
    @property
    def weight_bytes_per_step(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...
    def op_times(self) -> dict[str, float]:
        """Seconds spent per op group by thread 0 since the last call: attention, qkv, out, up, down, head, other."""
