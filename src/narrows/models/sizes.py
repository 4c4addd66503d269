"""How many bytes a model holds: its packed matrices and vectors, and a token's keys and values.

In: TransformerSpec and the packed format of each matrix. Out: shapes and bytes, equal to those of the
runner's plan (a test compares them). Pure arithmetic, so it also answers for a bare config.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from narrows.kernels.formats import (
    ALIGNMENT,
    KV_BLOCK,
    PANEL,
    KvKind,
    PackedFormat,
    PackedShape,
    kv_page_bytes,
    round_up,
)
from narrows.models.spec import LayerSpec, LinearSpec, NormSpec, TransformerSpec

MatrixName = Literal["qkv", "out", "up", "down"]
KvKinds = KvKind | tuple[KvKind, ...]  # of all layers, or of each
FLOAT_BYTES: Final = 4


class Formats(Protocol):
    """Which format a matrix gets: runners.plan.Recipe."""

    def matrix_format(self, k: int) -> PackedFormat: ...
    def head_format(self, k: int) -> PackedFormat: ...


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of a packed model. `step` is what a step reads, `packed` what the runner holds.

    A step means a greedy one of few rows: of a head in two planes it reads the upper one, and a few panels of
    the lower one that cannot be known in advance and are not counted.
    """

    step: int
    matrices: int
    vectors: int  # norms, biases, learned positions: float32, each padded to 64 bytes
    embedding_rows: int  # an untied embedding stays in the checkpoint as it is, in `embedding_item_bytes`

    @property
    def packed(self) -> int:
        return self.matrices + self.vectors


def weight_bytes(spec: TransformerSpec, formats: Formats, *, embedding_item_bytes: int = 2) -> WeightBytes:
    """The model's bytes, as runners.plan.PackPlan has them; `embedding_item_bytes` are the checkpoint's."""
    shapes = tuple(_matrices(spec, formats))
    step, matrices = (
        sum(sizes) for sizes in zip(*((s.first_bytes, s.num_bytes) for s in shapes), strict=True)
    )
    vectors = sum(round_up(length * FLOAT_BYTES, ALIGNMENT) for length in _vector_lengths(spec))
    rows = spec.vocab * spec.hidden * embedding_item_bytes if spec.head is not None else 0
    return WeightBytes(step, matrices, vectors, rows)


def kv_kinds(spec: TransformerSpec, kv: KvKinds) -> tuple[KvKind, ...]:
    """One kind per layer."""
    return (kv,) * len(spec.layers) if isinstance(kv, str) else kv


def kv_bytes_per_token(spec: TransformerSpec, *, kv: KvKinds = "f16") -> int:
    """Keys and values of one token in all layers, whatever their windows: pages hold every token."""
    return sum(kv_row_bytes(*pair) for pair in zip(spec.layers, kv_kinds(spec, kv), strict=True))


def kv_row_bytes(layer: LayerSpec, kv: KvKind) -> int:
    """Keys and values of one token in one layer: its share of their pages."""
    return layer.kv_heads * kv_page_bytes(kv, layer.head_dim) // KV_BLOCK


def layer_shapes(layer: LayerSpec, hidden: int, formats: Formats) -> dict[MatrixName, PackedShape]:
    """The layer's four packed matrices; gate and up are padded to whole panels each."""
    attended = layer.heads * layer.head_dim
    up = 2 * round_up(layer.intermediate, PANEL) if layer.gated else layer.intermediate
    sizes: dict[MatrixName, tuple[int, int]] = {
        "qkv": (attended + 2 * layer.kv_heads * layer.head_dim, hidden),
        "out": (hidden, attended),
        "up": (up, hidden),
        "down": (hidden, layer.intermediate),
    }
    return {name: PackedShape(formats.matrix_format(k), n, k) for name, (n, k) in sizes.items()}


def head_shape(spec: TransformerSpec, formats: Formats) -> PackedShape:
    """The head, or the embedding used as one."""
    return PackedShape(formats.head_format(spec.hidden), spec.vocab, spec.hidden)


def _matrices(spec: TransformerSpec, formats: Formats) -> Iterator[PackedShape]:
    for layer in spec.layers:
        yield from layer_shapes(layer, spec.hidden, formats).values()
    yield head_shape(spec, formats)


def _vector_lengths(spec: TransformerSpec) -> Iterator[int]:
    def norm(found: NormSpec | None, length: int) -> Iterator[int]:
        if found is not None:
            yield from (length,) * (1 if found.bias is None else 2)

    def bias(linear: LinearSpec | None, rows: int) -> Iterator[int]:
        if linear is not None and linear.biases:
            yield rows

    if spec.position_embedding is not None:
        yield spec.max_positions * spec.hidden
    for layer in spec.layers:
        for found in (layer.norm_attn, layer.norm_mlp, layer.post_attn, layer.post_mlp):
            yield from norm(found, spec.hidden)
        yield from norm(layer.q_norm, layer.head_dim)
        yield from norm(layer.k_norm, layer.head_dim)
        width = 2 * round_up(layer.intermediate, PANEL) if layer.gated else layer.intermediate
        yield from bias(layer.qkv, (layer.heads + 2 * layer.kv_heads) * layer.head_dim)
        yield from bias(layer.out, spec.hidden)
        yield from bias(layer.up, width)
        yield from bias(layer.down, spec.hidden)
    yield from norm(spec.final_norm, spec.hidden)
    yield from bias(spec.head, spec.vocab)
