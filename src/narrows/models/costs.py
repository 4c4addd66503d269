"""What a step costs: multiplications and bytes of every operator, counted from the spec alone.

In: TransformerSpec, the packed format of each matrix, the chunks of a step. Out: an OpCost per operator, in
the groups in which the native core keeps its times. Pure arithmetic: no tensor is read and nothing is
measured. How long it takes on a machine is step_time.py's question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from narrows.kernels.formats import KV_BLOCK, PANEL, FormatName, KvKind, PackedShape, round_up
from narrows.models.sizes import (
    FLOAT_BYTES,
    Formats,
    KvKinds,
    head_shape,
    kv_kinds,
    kv_row_bytes,
    layer_shapes,
)
from narrows.models.spec import LayerSpec, TransformerSpec

# Few rows over floats; many rows; rows of a prompt in int8; rows of an answer over 8-bit keys and values.
Attention = Literal["pages", "floats", "integers", "bytes"]
Group = Literal["attention", "qkv", "out", "up", "down", "head", "other"]
GROUPS: Final[tuple[Group, ...]] = get_args(Group)

# How the native core cuts its work: cpp/src/transformer_*.h, transformer_plan.cpp and kernels.h.
FEW_ROWS: Final = 4  # up to here every thread prepares all inputs itself, which saves a barrier
WHOLE_ROWS: Final = 16  # longer chunks store all keys first and attend after one more barrier
GROUP_VECTORS: Final = 8  # (row, head) pairs multiplied together; no more of them read the pages as they are
ATTEND_ROWS: Final[dict[Attention, int]] = {"pages": 32, "floats": 32, "integers": 64, "bytes": 32}
PLANE_ROWS: Final = 8  # rows of logits up to which the best are looked for in the upper plane of the head
INT8_VECTORS: Final = 128  # (row, head) pairs that walk the keys together in integers
KEY_CHUNK: Final = 256  # keys, aligned to position 0


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
    group_size: int = 0  # inputs that share a scale; 0 for floats
    flops: int = 0  # 2 per multiply-add of matrix products: what the model asks for
    macs: int = 0  # multiply-adds the kernels do, padding and masked keys included
    weight_bytes: int = 0
    kv_read_bytes: int = 0
    kv_written_bytes: int = 0
    activation_bytes: int = 0  # float32 rows in and out
    scores: int = 0  # query-key products, attention only
    stages: int = 0  # barriers
    tasks: int = 0  # pieces the threads can take; 0: as many as wanted
    attention: Attention | None = None  # how; linears follow their format

    @property
    def read_bytes(self) -> int:
        """What must come from memory."""
        return self.weight_bytes + self.kv_read_bytes


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
    kv: KvKinds = "f16",
    int8_attention: bool = False,
) -> tuple[OpCost, ...]:
    """Every operator of a step: five a layer, more where prompts and answers mix; then head and other."""
    step = tuple(chunks)
    ops: list[OpCost] = []
    rows, logits = _rows(step)
    for index, (layer, kind) in enumerate(zip(spec.layers, kv_kinds(spec, kv), strict=True)):
        narrowed = index + 1 == len(spec.layers) and logits < rows
        linears, attend = (
            (_narrowed_linears, _narrowed_attention) if narrowed else (_layer_linears, _attention)
        )
        *qkv, out, up, down = linears(spec, layer, formats, step)
        ops += [*qkv, *attend(layer, step, kv=kind, int8=int8_attention), out, up, down]
    return (*ops, *_frame(spec, formats, step))


def by_group(ops: Iterable[OpCost]) -> dict[Group, OpCost]:
    """Sums per group; what does not add up (rows, format, group_size, tasks, attention) is left out."""
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


def visible_pairs(num_tokens: int, start: int, window: int) -> int:
    """Query-key pairs of causal attention: the row at position p sees p + 1 keys, at most `window`."""
    first, last = start + 1, start + num_tokens
    if not window or last <= window:
        return (first + last) * num_tokens // 2
    growing = max(0, window - start)  # rows that still see everything before them
    return (first + window) * growing // 2 + (num_tokens - growing) * window


def _rows(step: tuple[Chunk, ...]) -> tuple[int, int]:
    """Rows of the step, and those of them whose logits are wanted."""
    return sum(chunk.num_tokens for chunk in step), sum(chunk.num_logits for chunk in step)


def _linear(
    group: Group, shape: PackedShape, rows: int, *, outputs: int, stages: int = 1, asked: int | None = None
) -> OpCost:
    """`outputs`: of the model; the packed shape may have more. `asked`: the model's rows, if more."""
    return OpCost(
        group,
        rows=rows,
        format=shape.format.name,
        group_size=shape.format.group,
        flops=2 * (rows if asked is None else asked) * outputs * shape.k,
        macs=rows * shape.panels * PANEL * shape.padded_k,
        weight_bytes=shape.num_bytes if rows else 0,
        activation_bytes=rows * (shape.k + outputs) * FLOAT_BYTES,
        stages=(stages + (rows > FEW_ROWS)) if rows else 0,
    )


def _layer_linears(
    spec: TransformerSpec, layer: LayerSpec, formats: Formats, step: tuple[Chunk, ...]
) -> list[OpCost]:
    rows, _ = _rows(step)
    qkv = layer_shapes(layer, spec.hidden, formats)["qkv"]
    return [_linear("qkv", qkv, rows, outputs=qkv.n), *_after_attention(spec, layer, formats, rows, rows)]


def _narrowed_linears(
    spec: TransformerSpec, layer: LayerSpec, formats: Formats, step: tuple[Chunk, ...]
) -> list[OpCost]:
    """The last layer: keys and values of all rows; the rest of it for the rows whose logits are wanted."""
    rows, logits = _rows(step)
    qkv = layer_shapes(layer, spec.hidden, formats)["qkv"]
    queries = layer.heads * layer.head_dim
    keys, asking = (PackedShape(qkv.format, n, qkv.k) for n in (qkv.n - queries, queries))
    return [
        _linear("qkv", keys, rows, outputs=keys.n),
        _linear("qkv", asking, logits, outputs=queries, asked=rows),
        *_after_attention(spec, layer, formats, logits, rows),
    ]


def _after_attention(
    spec: TransformerSpec, layer: LayerSpec, formats: Formats, rows: int, asked: int
) -> tuple[OpCost, OpCost, OpCost]:
    shapes = layer_shapes(layer, spec.hidden, formats)
    width = (2 if layer.gated else 1) * layer.intermediate
    # A norm after the matrix needs the whole row, hence one more barrier.
    after_out, after_mlp = (0 if norm is None else 1 for norm in (layer.post_attn, layer.post_mlp))
    return (
        _linear("out", shapes["out"], rows, outputs=spec.hidden, stages=1 + after_out, asked=asked),
        _linear("up", shapes["up"], rows, outputs=width, asked=asked),
        _linear("down", shapes["down"], rows, outputs=spec.hidden, stages=1 + after_mlp, asked=asked),
    )


def _narrowed_attention(
    layer: LayerSpec, step: tuple[Chunk, ...], *, kv: KvKind, int8: bool
) -> Iterator[OpCost]:
    """All rows store their keys and values; only those whose logits are wanted, the last ones, attend."""
    rows, logits = _rows(step)
    pairs = sum(visible_pairs(chunk.num_tokens, chunk.start, layer.window) for chunk in step)
    last = tuple(
        replace(chunk, num_tokens=chunk.num_logits, start=chunk.start + chunk.num_tokens - chunk.num_logits)
        for chunk in step
        if chunk.num_logits
    )
    attending = list(_attention(layer, last, kv=kv, int8=int8))
    yield OpCost(
        "attention",
        rows=rows - logits,
        flops=4 * layer.heads * layer.head_dim * pairs - sum(op.flops for op in attending),
        kv_written_bytes=(rows - logits) * kv_row_bytes(layer, kv),
        activation_bytes=2 * (rows - logits) * layer.kv_heads * layer.head_dim * FLOAT_BYTES,
        stages=1,
    )
    yield from attending


def _attention(layer: LayerSpec, step: tuple[Chunk, ...], *, kv: KvKind, int8: bool) -> Iterator[OpCost]:
    """One operator for each way in which rows of the step attend."""
    stages = 1 + any(chunk.num_tokens > WHOLE_ROWS for chunk in step)
    ways = {chunk: _way(layer, chunk, kv, int8) for chunk in step}
    for way in get_args(Attention):
        chunks = [chunk for chunk in step if ways[chunk] == way]
        if not chunks:
            continue
        rows = sum(chunk.num_tokens for chunk in chunks)
        pairs = sum(visible_pairs(chunk.num_tokens, chunk.start, layer.window) for chunk in chunks)
        computed = sum(_tiled_pairs(layer, chunk) for chunk in chunks) if way == "integers" else pairs
        read = sum(_keys_read(chunk, layer.window) for chunk in chunks) * kv_row_bytes(layer, kv)
        yield OpCost(
            "attention",
            rows=rows,
            flops=4 * layer.heads * layer.head_dim * pairs,
            macs=2 * layer.heads * layer.head_dim * computed,
            kv_read_bytes=read,
            kv_written_bytes=rows * kv_row_bytes(layer, kv),
            activation_bytes=2 * rows * (layer.heads + layer.kv_heads) * layer.head_dim * FLOAT_BYTES,
            scores=layer.heads * computed,
            stages=stages,
            tasks=layer.kv_heads * sum(-(-chunk.num_tokens // ATTEND_ROWS[way]) for chunk in chunks),
            attention=way,
        )
        stages = 0  # all share their barriers


def _way(layer: LayerSpec, chunk: Chunk, kv: KvKind, int8: bool) -> Attention:
    if int8 and chunk.in_prompt:
        return "integers"
    if kv == "int8":
        return "bytes"
    few = chunk.num_tokens * (layer.heads // layer.kv_heads) <= GROUP_VECTORS
    return "pages" if few else "floats"


def _keys_read(chunk: Chunk, window: int) -> int:
    """Keys any row of the chunk sees, in whole blocks; later rows find them in a cache."""
    first = max(0, chunk.start + 1 - window) // KV_BLOCK * KV_BLOCK if window else 0
    return round_up(chunk.start + chunk.num_tokens, KV_BLOCK) - first


def _tiled_pairs(layer: LayerSpec, chunk: Chunk) -> int:
    """Pairs multiplied in integers: the rows of a tile walk the same keys, whether they see them or not."""
    tile_rows = max(1, INT8_VECTORS // (layer.heads // layer.kv_heads))
    pairs, end = 0, chunk.start + chunk.num_tokens
    for part in range(chunk.start, end, ATTEND_ROWS["integers"]):
        part_end = min(part + ATTEND_ROWS["integers"], end)
        for row in range(part, part_end, tile_rows):
            row_end = min(row + tile_rows, part_end)
            first = max(0, row + 1 - layer.window) // KEY_CHUNK * KEY_CHUNK if layer.window else 0
            pairs += (row_end - row) * (round_up(row_end, KV_BLOCK) - first)
    return pairs


def _frame(spec: TransformerSpec, formats: Formats, step: tuple[Chunk, ...]) -> tuple[OpCost, OpCost]:
    """Head and, as "other", embedding and sampling. Few rows are taken to be greedy: of a head in two planes
    they read the upper one; the panels of the lower one are few and not counted.
    """
    shape = head_shape(spec, formats)
    rows, logits = _rows(step)
    panel_bytes = shape.panel_bytes + shape.lower_bytes  # a row of an embedding lies across all its lines
    row_bytes = panel_bytes if spec.head is None else spec.hidden * FLOAT_BYTES
    other = OpCost(
        "other",
        rows=rows,
        weight_bytes=rows * row_bytes,
        activation_bytes=(rows * spec.hidden + logits * spec.vocab) * FLOAT_BYTES,
        stages=1,
    )
    head = _linear("head", shape, logits, outputs=spec.vocab, stages=2)
    if shape.lower_bytes and 0 < logits <= PLANE_ROWS:
        head = replace(head, weight_bytes=shape.first_bytes, stages=head.stages + 2)
    return head, other
