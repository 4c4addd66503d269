"""What a step costs: multiplications and bytes of every operator, counted from the spec alone.

In: TransformerSpec, the packed format of each matrix, the chunks of a step. Out: an OpCost per operator, in
the groups in which the native core keeps its times. Pure arithmetic: no tensor is read and nothing is
measured. How long it takes on a machine is step_time.py's question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args

from narrows.kernels.formats import ALIGNMENT, PANEL, FormatName, PackedFormat, PackedShape, round_up
from narrows.models.spec import LayerSpec, LinearSpec, NormSpec, TransformerSpec

Group = Literal["attention", "qkv", "out", "up", "down", "head", "other"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)
FLOAT_BYTES: Final = 4

# How the native core cuts its work: cpp/src/transformer_*.h, transformer_plan.cpp and kernels.h.
KV_BLOCK: Final = 16  # tokens whose keys and values lie together: read as a whole
FEW_ROWS: Final = 4  # up to here every thread prepares all inputs itself, which saves a barrier
WHOLE_ROWS: Final = 16  # longer chunks store all keys first and attend after one more barrier
ATTEND_ROWS: Final = {False: 32, True: 64}  # rows of an attention task, by "in integers"
INT8_VECTORS: Final = 128  # (row, head) pairs that walk the keys together in integers
KEY_CHUNK: Final = 256  # keys, aligned to position 0


class Formats(Protocol):
    """Which format a matrix gets: runners.plan.Recipe."""

    def matrix_format(self, k: int) -> PackedFormat: ...
    def head_format(self, n: int, k: int) -> PackedFormat: ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence in a step: positions [start, start + num_tokens)."""

    num_tokens: int
    start: int = 0  # tokens of the sequence already in its KV pages
    num_logits: int = 1  # rows that need logits
    in_prompt: bool = False  # rows of a prompt may attend in integers


@dataclass(frozen=True, slots=True)
class OpCost:
    """One operator of one step, over all its rows. Bytes are those of a single pass over the data."""

    group: Group
    rows: int = 0
    format: FormatName | None = None  # of the matrix
    flops: int = 0  # 2 per multiply-add of matrix products: what the model asks for
    macs: int = 0  # multiply-adds the kernels do, padding and masked keys included
    weight_bytes: int = 0
    kv_read_bytes: int = 0
    kv_written_bytes: int = 0
    activation_bytes: int = 0  # float32 rows in and out
    scores: int = 0  # query-key products, attention only
    stages: int = 0  # barriers
    tasks: int = 0  # pieces the threads can take; 0: as many as wanted
    in_integers: bool = False  # attention only; linears follow their format

    @property
    def read_bytes(self) -> int:
        """What must come from memory."""
        return self.weight_bytes + self.kv_read_bytes


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of a packed model. `matrices` is what a step reads, `packed` what the runner holds."""

    matrices: int
    vectors: int  # norms, biases, learned positions: float32, each padded to 64 bytes
    embedding_rows: int  # an untied embedding stays in the checkpoint as it is, in `embedding_item_bytes`

    @property
    def packed(self) -> int:
        return self.matrices + self.vectors


def prefill(
    num_tokens: int, *, start: int = 0, max_step_tokens: int | None = None
) -> list[tuple[Chunk, ...]]:
    """The steps of one prompt, one chunk a step; only its last row needs logits."""
    end, size = start + num_tokens, max_step_tokens or num_tokens
    return [
        (Chunk(min(size, end - at), at, int(at + size >= end), in_prompt=True),)
        for at in range(start, end, size)
    ]


def decode(streams: int, context: int) -> tuple[Chunk, ...]:
    """One token of each of `streams` sequences that have `context` tokens in their pages."""
    return (Chunk(1, context),) * streams


def step_costs(
    spec: TransformerSpec,
    formats: Formats,
    chunks: Iterable[Chunk],
    *,
    kv_f32: bool = False,
    int8_attention: bool = False,
) -> tuple[OpCost, ...]:
    """Every operator of a step: five a layer (six where prompts and answers mix), then head and other."""
    step = tuple(chunks)
    ops: list[OpCost] = []
    for layer in spec.layers:
        qkv, out, up, down = _layer_linears(spec, layer, formats, sum(chunk.num_tokens for chunk in step))
        ops += [qkv, *_attention(layer, step, kv_f32=kv_f32, int8=int8_attention), out, up, down]
    return (*ops, *_frame(spec, formats, step))


def by_group(ops: Iterable[OpCost]) -> dict[Group, OpCost]:
    """Sums per group; what does not add up (rows, format, tasks, in_integers) is left out."""
    listed = tuple(ops)

    def total(group: Group) -> OpCost:
        mine = [op for op in listed if op.group == group]
        return OpCost(
            group,
            flops=sum(op.flops for op in mine),
            macs=sum(op.macs for op in mine),
            weight_bytes=sum(op.weight_bytes for op in mine),
            kv_read_bytes=sum(op.kv_read_bytes for op in mine),
            kv_written_bytes=sum(op.kv_written_bytes for op in mine),
            activation_bytes=sum(op.activation_bytes for op in mine),
            scores=sum(op.scores for op in mine),
            stages=sum(op.stages for op in mine),
        )

    return {group: total(group) for group in GROUPS}


def weight_bytes(spec: TransformerSpec, formats: Formats, *, embedding_item_bytes: int = 2) -> WeightBytes:
    """The model's bytes, as runners.plan.PackPlan has them; `embedding_item_bytes` are the checkpoint's."""
    matrices = sum(shape.num_bytes for _, shape in _matrices(spec, formats))
    vectors = sum(round_up(length * FLOAT_BYTES, ALIGNMENT) for length in _vector_lengths(spec))
    rows = spec.vocab * spec.hidden * embedding_item_bytes if spec.head is not None else 0
    return WeightBytes(matrices, vectors, rows)


def kv_bytes_per_token(spec: TransformerSpec, *, kv_f32: bool = False) -> int:
    """Keys and values of one token in all layers, whatever their windows: pages hold every token."""
    return sum(_kv_row_bytes(layer, kv_f32) for layer in spec.layers)


def visible_pairs(num_tokens: int, start: int, window: int) -> int:
    """Query-key pairs of causal attention: the row at position p sees p + 1 keys, at most `window`."""
    first, last = start + 1, start + num_tokens
    if not window or last <= window:
        return (first + last) * num_tokens // 2
    growing = max(0, window - start)  # rows that still see everything before them
    return (first + window) * growing // 2 + (num_tokens - growing) * window


def _layer_shapes(layer: LayerSpec, hidden: int, formats: Formats) -> dict[Group, PackedShape]:
    """The layer's four packed matrices; gate and up are padded to whole panels each."""
    attended = layer.heads * layer.head_dim
    up = 2 * round_up(layer.intermediate, PANEL) if layer.gated else layer.intermediate
    sizes: dict[Group, tuple[int, int]] = {
        "qkv": (attended + 2 * layer.kv_heads * layer.head_dim, hidden),
        "out": (hidden, attended),
        "up": (up, hidden),
        "down": (hidden, layer.intermediate),
    }
    return {group: PackedShape(formats.matrix_format(k), n, k) for group, (n, k) in sizes.items()}


def _head_shape(spec: TransformerSpec, formats: Formats) -> PackedShape:
    return PackedShape(formats.head_format(spec.vocab, spec.hidden), spec.vocab, spec.hidden)


def _matrices(spec: TransformerSpec, formats: Formats) -> Iterator[tuple[Group, PackedShape]]:
    for layer in spec.layers:
        yield from _layer_shapes(layer, spec.hidden, formats).items()
    yield "head", _head_shape(spec, formats)


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


def _linear(group: Group, shape: PackedShape, rows: int, *, outputs: int, stages: int = 1) -> OpCost:
    """`outputs`: of the model; the packed shape may have more."""
    return OpCost(
        group,
        rows=rows,
        format=shape.format.name,
        flops=2 * rows * outputs * shape.k,
        macs=rows * shape.panels * PANEL * shape.padded_k,
        weight_bytes=shape.num_bytes if rows else 0,
        activation_bytes=rows * (shape.k + outputs) * FLOAT_BYTES,
        stages=(stages + (rows > FEW_ROWS)) if rows else 0,
    )


def _layer_linears(
    spec: TransformerSpec, layer: LayerSpec, formats: Formats, rows: int
) -> tuple[OpCost, OpCost, OpCost, OpCost]:
    shapes = _layer_shapes(layer, spec.hidden, formats)
    width = (2 if layer.gated else 1) * layer.intermediate
    # A norm after the matrix needs the whole row, hence one more barrier.
    after_out, after_mlp = (0 if norm is None else 1 for norm in (layer.post_attn, layer.post_mlp))
    return (
        _linear("qkv", shapes["qkv"], rows, outputs=shapes["qkv"].n),
        _linear("out", shapes["out"], rows, outputs=spec.hidden, stages=1 + after_out),
        _linear("up", shapes["up"], rows, outputs=width),
        _linear("down", shapes["down"], rows, outputs=spec.hidden, stages=1 + after_mlp),
    )


def _kv_row_bytes(layer: LayerSpec, kv_f32: bool) -> int:
    return 2 * layer.kv_heads * layer.head_dim * (4 if kv_f32 else 2)


def _attention(layer: LayerSpec, step: tuple[Chunk, ...], *, kv_f32: bool, int8: bool) -> Iterator[OpCost]:
    """One operator for the rows that attend in floats and one for those that attend in integers."""
    stages = 1 + any(chunk.num_tokens > WHOLE_ROWS for chunk in step)
    for in_integers in (False, True):
        chunks = [chunk for chunk in step if (int8 and chunk.in_prompt) == in_integers]
        if not chunks:
            continue
        rows = sum(chunk.num_tokens for chunk in chunks)
        pairs = sum(visible_pairs(chunk.num_tokens, chunk.start, layer.window) for chunk in chunks)
        computed = sum(_tiled_pairs(layer, chunk) for chunk in chunks) if in_integers else pairs
        read = sum(_keys_read(chunk, layer.window) for chunk in chunks) * _kv_row_bytes(layer, kv_f32)
        yield OpCost(
            "attention",
            rows=rows,
            flops=4 * layer.heads * layer.head_dim * pairs,
            macs=2 * layer.heads * layer.head_dim * computed,
            kv_read_bytes=read,
            kv_written_bytes=rows * _kv_row_bytes(layer, kv_f32),
            activation_bytes=2 * rows * (layer.heads + layer.kv_heads) * layer.head_dim * FLOAT_BYTES,
            scores=layer.heads * computed,
            stages=stages,
            tasks=layer.kv_heads * sum(-(-chunk.num_tokens // ATTEND_ROWS[in_integers]) for chunk in chunks),
            in_integers=in_integers,
        )
        stages = 0  # both kinds share their barriers


def _keys_read(chunk: Chunk, window: int) -> int:
    """Keys any row of the chunk sees, in whole blocks; later rows find them in a cache."""
    first = max(0, chunk.start + 1 - window) // KV_BLOCK * KV_BLOCK if window else 0
    return round_up(chunk.start + chunk.num_tokens, KV_BLOCK) - first


def _tiled_pairs(layer: LayerSpec, chunk: Chunk) -> int:
    """Pairs multiplied in integers: the rows of a tile walk the same keys, whether they see them or not."""
    tile_rows = max(1, INT8_VECTORS // (layer.heads // layer.kv_heads))
    pairs, end = 0, chunk.start + chunk.num_tokens
    for part in range(chunk.start, end, ATTEND_ROWS[True]):
        part_end = min(part + ATTEND_ROWS[True], end)
        for row in range(part, part_end, tile_rows):
            row_end = min(row + tile_rows, part_end)
            first = max(0, row + 1 - layer.window) // KEY_CHUNK * KEY_CHUNK if layer.window else 0
            pairs += (row_end - row) * (round_up(row_end, KV_BLOCK) - first)
    return pairs


def _frame(spec: TransformerSpec, formats: Formats, step: tuple[Chunk, ...]) -> tuple[OpCost, OpCost]:
    """Head and, as "other", embedding and sampling."""
    shape = _head_shape(spec, formats)
    rows, logits = (sum(getattr(chunk, name) for chunk in step) for name in ("num_tokens", "num_logits"))
    # A row of a packed embedding lies across its panel's lines: all of them are read.
    row_bytes = shape.panel_bytes if spec.head is None else spec.hidden * FLOAT_BYTES
    other = OpCost(
        "other",
        rows=rows,
        weight_bytes=rows * row_bytes,
        activation_bytes=(rows * spec.hidden + logits * spec.vocab) * FLOAT_BYTES,
        stages=1,
    )
    return _linear("head", shape, logits, outputs=spec.vocab, stages=2), other
