"""The parts of one layer, read from tensor shapes: attention, MLP and norms.

In: tensor names and shapes. Out: LinearSpec and sizes, so that layers of different widths describe
themselves. Shapes that cannot work together raise InvalidModel naming the tensor and both numbers. Knows no
family.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from narrows.errors import InvalidModel
from narrows.models.spec import LinearSpec, NormSpec, TensorSlice


class Tensors(Protocol):
    """The shapes of a checkpoint. `shape` raises InvalidModel for a missing tensor, naming it."""

    def __contains__(self, name: object, /) -> bool: ...
    def __iter__(self) -> Iterator[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> str: ...
    def equal(self, first: str, second: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Attention:
    heads: int
    kv_heads: int
    head_dim: int
    qkv: LinearSpec
    out: LinearSpec


@dataclass(frozen=True, slots=True)
class Mlp:
    intermediate: int
    up: LinearSpec
    down: LinearSpec


def matrix(tensors: Tensors, name: str, columns: int, *, transpose: bool = False) -> int:
    """Output rows of a matrix that must take `columns` inputs."""
    shape = tensors.shape(name)
    if len(shape) != 2:
        raise InvalidModel(f"{name} has shape {list(shape)}; a matrix was expected")
    rows, found = (shape[1], shape[0]) if transpose else shape
    if found != columns:
        raise InvalidModel(
            f"{name} has shape {list(shape)}: it takes {found} inputs, but config.json and the other "
            f"tensors say {columns}"
        )
    if rows == 0:
        raise InvalidModel(f"{name} has shape {list(shape)}; an empty matrix cannot be run")
    return rows


def expect_rows(name: str, found: int, wanted: int) -> None:
    """Raises InvalidModel where a tensor's rows differ from what its neighbours need."""
    if found != wanted:
        raise InvalidModel(f"{name} has {found} rows, but config.json and the other tensors say {wanted}")


def vector(tensors: Tensors, name: str, length: int) -> str:
    """Checks a vector's length and returns its name."""
    shape = tensors.shape(name)
    if shape != (length,):
        raise InvalidModel(
            f"{name} has shape {list(shape)}, but config.json and the other tensors say [{length}]"
        )
    return name


def norm(
    tensors: Tensors, prefix: str, length: int, *, bias: bool = False, add_one: bool = False
) -> NormSpec:
    """The norm stored under `prefix`."""
    weight = vector(tensors, f"{prefix}.weight", length)
    return NormSpec(weight, vector(tensors, f"{prefix}.bias", length) if bias else None, add_one)


def linear(
    tensors: Tensors, prefix: str, *, rows: int, columns: int, bias: bool, transpose: bool = False
) -> LinearSpec:
    """One whole matrix of known size with an optional bias."""
    name = f"{prefix}.weight"
    expect_rows(name, matrix(tensors, name, columns, transpose=transpose), rows)
    return LinearSpec((TensorSlice(name, transpose=transpose),), _biases(tensors, (prefix,), (rows,), bias))


def head_count(name: str, rows: int, head_dim: int) -> int:
    """Heads in `rows` rows."""
    if rows % head_dim:
        raise InvalidModel(
            f"{name} has {rows} rows, which is no multiple of config.json's head size {head_dim}"
        )
    return rows // head_dim


def separate_attention(
    tensors: Tensors,
    q: str,
    k: str,
    v: str,
    out: str,
    *,
    hidden: int,
    head_dim: int,
    qkv_bias: bool,
    out_bias: bool,
) -> Attention:
    """Attention stored as four matrices; the numbers of heads are read from their rows."""
    prefixes = (q, k, v)
    rows = [matrix(tensors, f"{prefix}.weight", hidden) for prefix in prefixes]
    heads, kv_heads, _ = (
        head_count(f"{prefix}.weight", n, head_dim) for prefix, n in zip(prefixes, rows, strict=True)
    )
    expect_rows(f"{v}.weight", rows[2], rows[1])
    check_groups(q, heads, kv_heads)
    qkv = LinearSpec(
        tuple(TensorSlice(f"{prefix}.weight") for prefix in prefixes),
        _biases(tensors, prefixes, tuple(rows), qkv_bias),
    )
    out_linear = linear(tensors, out, rows=hidden, columns=rows[0], bias=out_bias)
    return Attention(heads, kv_heads, head_dim, qkv, out_linear)


def check_groups(name: str, heads: int, kv_heads: int) -> None:
    """Query heads must share key heads evenly."""
    if heads % kv_heads:
        raise InvalidModel(f"{name}: {heads} query heads cannot share {kv_heads} key/value heads evenly")


def gated_mlp(tensors: Tensors, prefix: str, *, hidden: int, bias: bool) -> Mlp:
    """gate_proj, up_proj and down_proj; the width is read from gate_proj's rows."""
    gate, up = f"{prefix}.gate_proj", f"{prefix}.up_proj"
    width = matrix(tensors, f"{gate}.weight", hidden)
    expect_rows(f"{up}.weight", matrix(tensors, f"{up}.weight", hidden), width)
    up_linear = LinearSpec(
        (TensorSlice(f"{gate}.weight"), TensorSlice(f"{up}.weight")),
        _biases(tensors, (gate, up), (width, width), bias),
        interleave=True,
    )
    return Mlp(
        width, up_linear, linear(tensors, f"{prefix}.down_proj", rows=hidden, columns=width, bias=bias)
    )


def plain_mlp(tensors: Tensors, up: str, down: str, *, hidden: int, transpose: bool = False) -> Mlp:
    """Two matrices with biases and an activation between; the width is read from the first one's rows."""
    width = matrix(tensors, f"{up}.weight", hidden, transpose=transpose)
    return Mlp(
        width,
        linear(tensors, up, rows=width, columns=hidden, bias=True, transpose=transpose),
        linear(tensors, down, rows=hidden, columns=width, bias=True, transpose=transpose),
    )


def _biases(
    tensors: Tensors, prefixes: tuple[str, ...], rows: tuple[int, ...], wanted: bool
) -> tuple[TensorSlice, ...]:
    if not wanted:
        return ()
    return tuple(
        TensorSlice(vector(tensors, f"{prefix}.bias", n)) for prefix, n in zip(prefixes, rows, strict=True)
    )
