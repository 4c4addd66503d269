"""What a transformer is, as plain data: the table that describes every model family.

Made by families/<model_type>.py from config.json and tensor shapes; read by the runners, which turn it into
weights. Knows no tensors' values, no kernels and no files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Activation = Literal["silu", "gelu_tanh", "gelu_erf", "relu", "relu2"]


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """Rows of one checkpoint tensor: W[row_begin:row_end], optionally transposed first or with rows permuted.

    `rows` (a full list of row numbers, applied after the transpose) is for fused layouts such as GPT-NeoX
    qkv.
    """

    name: str
    row_begin: int = 0
    row_end: int | None = None
    transpose: bool = False  # GPT-2's Conv1D stores [in, out]
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """A linear layer [out_features, in_features] stacked from slices; so are biases, where present."""

    weights: tuple[TensorSlice, ...]
    biases: tuple[TensorSlice, ...] = ()
    interleave: bool = False  # gate and up, panel by panel


@dataclass(frozen=True, slots=True)
class NormSpec:
    """A norm's tensors. `add_one`: the checkpoint stores weight - 1 (Gemma)."""

    weight: str
    bias: str | None = None
    add_one: bool = False


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary positions: angle = position * inv_freq, cos and sin multiplied by `attention_factor`."""

    inv_freq: tuple[float, ...]  # [rotated_dims / 2], float32 values
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer. Widths come from the tensors, so layers may differ."""

    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    qkv: LinearSpec  # [(heads + 2 * kv_heads) * head_dim, hidden]
    out: LinearSpec
    up: LinearSpec  # gated: interleaved gate and up
    down: LinearSpec
    norm_attn: NormSpec | None = None
    norm_mlp: NormSpec | None = None
    post_attn: NormSpec | None = None
    post_mlp: NormSpec | None = None
    q_norm: NormSpec | None = None
    k_norm: NormSpec | None = None
    window: int = 0  # 0: full attention; else a query sees the last `window` keys, itself included
    rope: int | None = 0  # index into TransformerSpec.ropes
    attention_scale: float = 1.0
    attention_softcap: float = 0.0
    gated: bool = True
    activation: Activation = "silu"
    parallel_residual: bool = False


@dataclass(frozen=True, slots=True)
class TransformerSpec:
    """A decoder-only transformer from embedding to logits."""

    family: str  # config.json's model_type
    hidden: int
    vocab: int
    max_positions: int  # the longest context the checkpoint was made for
    layers: tuple[LayerSpec, ...]
    embedding: str
    final_norm: NormSpec | None
    head: LinearSpec | None  # None: tied to the embedding
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    embedding_scale: float = 1.0
    final_softcap: float = 0.0
    position_embedding: str | None = None  # learned positions
    ropes: tuple[RopeSpec, ...] = ()
    notes: tuple[str, ...] = field(
        default=()
    )  # what a user should know, e.g. context limited by rope scaling
