"""Which packed form every tensor of a model gets, and where it lies in the packed bytes.

In: TransformerSpec, checkpoint dtypes, the weights kind. Out: PackPlan: matrices and vectors with shapes and
offsets. Reads no values and writes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from narrows.kernels.formats import (
    ALIGNMENT,
    GROUPS,
    PANEL,
    FormatName,
    PackedFormat,
    PackedShape,
    fitting_group,
    round_up,
)
from narrows.models.families.blocks import Tensors
from narrows.models.spec import LayerSpec, LinearSpec, NormSpec, TensorSlice, TransformerSpec

WeightsKind = Literal["auto", "f32", "f16", "bf16", "q8", "q4"]
WEIGHTS_KINDS: Final[tuple[WeightsKind, ...]] = ("auto", "f32", "f16", "bf16", "q8", "q4")
HeadKind = Literal["auto", "q8", "q4"]
HEAD_KINDS: Final[tuple[HeadKind, ...]] = ("auto", "q8", "q4")
# With a head of 8 bits, groups of 64 are the fewest bytes whose KL divergence is level with that of
# llama.cpp's Q4_0 (docs/decisions/2026-11-21-four-bit-quality.md). 8 bits have one scale per channel: there a
# group is of activations only.
DEFAULT_GROUPS: Final[dict[WeightsKind, int]] = {"q4": 64}
DEFAULT_GROUP: Final = 128
_FORMAT_OF_DTYPE: Final[dict[str, FormatName]] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """The weights kind as asked for, resolved against the checkpoint."""

    weights: WeightsKind  # never "auto"
    group: int
    head: HeadKind = "auto"

    def matrix_format(self, k: int) -> PackedFormat:
        """The format of the layers' matrices with `k` inputs."""
        match self.weights:
            case "q8":
                return PackedFormat("p8", fitting_group(k, self.group))
            case "q4":
                # A zero point per group costs 8 bits in 128 * 4 and lets 16 levels span the group's real
                # range.
                return PackedFormat("p4", fitting_group(k, self.group), has_zero=True)
            case "f32" | "f16" | "bf16":
                return PackedFormat(self.weights)
        raise ValueError(f"weights kind {self.weights!r} has not been resolved")

    def head_format(self, k: int) -> PackedFormat:
        """The format of the head (and the embedding, where tied).

        The head decides every token and suffers most from 4 bits: by itself it keeps 8, though with a large
        vocabulary it is a third of the bytes a step reads; in two planes, most steps read half of them. At 4
        bits it gets the smallest groups.
        """
        if self.head == "q4":
            return PackedFormat("p4", GROUPS[0], has_zero=True)
        group = fitting_group(k, self.group if self.weights == "q8" else DEFAULT_GROUP)
        if self.head == "q8":
            return PackedFormat("p8", group)
        return PackedFormat("p44", group) if self.weights in ("q8", "q4") else self.matrix_format(k)


@dataclass(frozen=True, slots=True)
class PlannedMatrix:
    linear: LinearSpec
    shape: PackedShape
    begin: int  # in the packed bytes


@dataclass(frozen=True, slots=True)
class PlannedVector:
    """Float32 values: a norm's weight, a bias in packed order, or the table of learned positions."""

    parts: tuple[TensorSlice, ...]
    length: int
    begin: int
    add_one: bool = False
    padded: bool = False  # interleaved biases: each part ends on a whole panel, and panels alternate


@dataclass(frozen=True, slots=True)
class PackPlan:
    recipe: Recipe
    matrices: tuple[PlannedMatrix, ...]
    vectors: tuple[PlannedVector, ...]
    num_bytes: int
    rows: str | None  # an embedding that stays row-major in the checkpoint: few of its rows are read per step

    def digest(self) -> str:
        """Changes whenever the packed bytes would."""
        return hashlib.sha256(repr((self.recipe, self.matrices, self.vectors)).encode()).hexdigest()


def resolve_recipe(
    weights: WeightsKind, group: int | None, head: HeadKind, spec: TransformerSpec, tensors: Tensors
) -> Recipe:
    """`auto` keeps the checkpoint's precision: bf16 or f16 where every matrix has it, else f32."""
    group = group or DEFAULT_GROUPS.get(weights, DEFAULT_GROUP)
    if weights != "auto":
        return Recipe(weights, group, head)
    dtypes = {tensors.dtype(part.name) for linear in _linears(spec) for part in linear.weights}
    dtype = dtypes.pop() if len(dtypes) == 1 else "F32"
    return Recipe(_FORMAT_OF_DTYPE.get(dtype, "f32"), group, head)  # type: ignore[arg-type]


def make_plan(spec: TransformerSpec, recipe: Recipe) -> PackPlan:
    """Places every tensor, 64-byte aligned, in the order a step reads them."""
    builder = _Builder(recipe)
    if spec.position_embedding is not None:
        length = spec.max_positions * spec.hidden
        builder.vector((TensorSlice(spec.position_embedding),), length)
    for layer in spec.layers:
        builder.layer(layer, spec.hidden)
    builder.norm(spec.final_norm, spec.hidden)
    head = head_linear(spec)
    builder.matrix(head, PackedShape(recipe.head_format(spec.hidden), spec.vocab, spec.hidden))
    if head.biases:
        builder.vector(head.biases, spec.vocab)
    rows = spec.embedding if spec.head is not None else None
    return PackPlan(recipe, tuple(builder.matrices), tuple(builder.vectors), builder.end, rows)


def head_linear(spec: TransformerSpec) -> LinearSpec:
    """The head, or the embedding used as one."""
    return spec.head if spec.head is not None else LinearSpec((TensorSlice(spec.embedding),))


def layer_linears(layer: LayerSpec, hidden: int) -> tuple[tuple[LinearSpec, int, int], ...]:
    """(linear, packed output channels, inputs) of a layer's four matrices."""
    attended = layer.heads * layer.head_dim
    up = 2 * round_up(layer.intermediate, PANEL) if layer.gated else layer.intermediate
    return (
        (layer.qkv, attended + 2 * layer.kv_heads * layer.head_dim, hidden),
        (layer.out, hidden, attended),
        (layer.up, up, hidden),
        (layer.down, hidden, layer.intermediate),
    )


def layer_norms(layer: LayerSpec, hidden: int) -> tuple[tuple[NormSpec | None, int], ...]:
    """(norm, length) of a layer, in the order they are placed."""
    return (
        (layer.norm_attn, hidden),
        (layer.norm_mlp, hidden),
        (layer.post_attn, hidden),
        (layer.post_mlp, hidden),
        (layer.q_norm, layer.head_dim),
        (layer.k_norm, layer.head_dim),
    )


def _linears(spec: TransformerSpec) -> Iterator[LinearSpec]:
    for layer in spec.layers:
        yield from (layer.qkv, layer.out, layer.up, layer.down)
    yield head_linear(spec)


class _Builder:
    """Grows the plan; `end` is the number of bytes placed so far."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.matrices: list[PlannedMatrix] = []
        self.vectors: list[PlannedVector] = []
        self.end = 0

    def layer(self, layer: LayerSpec, hidden: int) -> None:
        for norm, length in layer_norms(layer, hidden):
            self.norm(norm, length)
        for linear, n, k in layer_linears(layer, hidden):
            self.matrix(linear, PackedShape(self.recipe.matrix_format(k), n, k))
            if linear.biases:
                self.vector(linear.biases, n, padded=linear.interleave)

    def matrix(self, linear: LinearSpec, shape: PackedShape) -> None:
        self.matrices.append(PlannedMatrix(linear, shape, self._take(shape.num_bytes)))

    def norm(self, norm: NormSpec | None, length: int) -> None:
        if norm is None:
            return
        self.vector((TensorSlice(norm.weight),), length, add_one=norm.add_one)
        if norm.bias is not None:
            self.vector((TensorSlice(norm.bias),), length)

    def vector(
        self, parts: tuple[TensorSlice, ...], length: int, *, add_one: bool = False, padded: bool = False
    ) -> None:
        self.vectors.append(PlannedVector(parts, length, self._take(length * 4), add_one, padded))

    def _take(self, num_bytes: int) -> int:
        begin = self.end
        self.end = round_up(begin + num_bytes, ALIGNMENT)
        return begin
