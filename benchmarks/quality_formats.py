"""The weights that each format really holds: ours packed and unpacked, the peers' read from their own files.

In: a checkpoint of bf16 values and its folder. Out: Held: matrices under the checkpoint's names and their
bytes. Knows no text and no statistics.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import codebook
import engines
import numpy as np
from workers import EngineError, last_words

from narrows import _core
from narrows.kernels.formats import PackedFormat, PackedShape, fitting_group
from narrows.kernels.p4_coding import code_groups
from narrows.kernels.packing import pack_matrix, unpack_matrix
from narrows.models.checkpoint import Floats

Matrices = dict[str, Floats]
PEERS = (
    ("llamacpp", "q4_0"),
    ("llamacpp", "q4_k_m"),
    ("llamacpp", "q8_0"),
    ("openvino", "int4"),
    ("onnxruntime", "int4"),
    ("onnxruntime", "int4b32"),
)


@dataclass(frozen=True, slots=True)
class Held:
    """One format's row. `types` says what the matrices got: type -> share of the weights."""

    values: Matrices
    bits_per_weight: float  # of all matrices: bytes * 8 / weights
    types: dict[str, float]


@dataclass(frozen=True, slots=True)
class Ours:
    """One of our formats: the layers' matrices and the embedding (or head)."""

    name: str
    group: int
    has_zero: bool
    head: str  # "p8", or "p4": groups of 32 with zero points
    search: bool = True
    body: str = "p4"

    def format(self, k: int, *, is_head: bool) -> PackedFormat:
        if is_head and self.head == "p4":
            return PackedFormat("p4", 32, has_zero=True)
        if is_head or self.body == "p8":
            return PackedFormat("p8", fitting_group(k, 128))
        return PackedFormat("p4", fitting_group(k, self.group), self.has_zero)


def our_formats() -> list[Ours]:
    kinds = [(group, zero) for group in (128, 64, 32) for zero in (False, True)]
    name = "narrows g{} {}".format
    found = [Ours(name(g, "affine" if z else "sym"), g, z, head) for head in ("p8", "p4") for g, z in kinds]
    rounded = [Ours(name(g, "affine" if z else "sym") + ", rounded", g, z, "p8", False) for g, z in kinds]
    return [*found, *rounded, Ours("narrows q8", 128, False, "p8", body="p8")]


def hold_ours(ours: Ours, matrices: Matrices, heads: frozenset[str], pool: _core.ThreadPool) -> Held:
    """By the core; where rounding to nearest is wanted, by its oracle with the search off."""
    values, num_bytes, types = {}, 0, Counter[str]()
    for name, rows in matrices.items():
        form = ours.format(rows.shape[1], is_head=name in heads)
        shape = PackedShape(form, *rows.shape)
        num_bytes += shape.num_bytes
        types[form.describe()] += rows.size
        if ours.search or form.name != "p4":
            room = np.zeros(shape.num_bytes + 64, dtype=np.uint8)
            out = room[-room.ctypes.data % 64 :][: shape.num_bytes]
            pack_matrix([rows], shape, out=out, interleave=False, name=name, pool=pool)
            values[name] = unpack_matrix(out, shape)
        else:
            padded = np.pad(rows, ((0, 0), (0, shape.padded_k - shape.k)))
            coded = code_groups(padded.reshape(-1, form.group), has_zero=form.has_zero, search=False)
            values[name] = coded.values.reshape(padded.shape)[:, : shape.k]
    return _held(values, num_bytes, types)


def hold_codebook(group: int, matrices: Matrices, heads: frozenset[str], pool: _core.ThreadPool) -> Held:
    """A trial in numpy: 16 levels, 8-bit scales, one f16 over 256 inputs; the head in p8."""
    head = hold_ours(our_formats()[0], {name: matrices[name] for name in heads}, heads, pool)
    values, num_bytes, types = dict(head.values), 0.0, Counter[str]()
    for name, rows in matrices.items():
        bits = head.bits_per_weight if name in heads else codebook.bits_per_weight(group)
        num_bytes += rows.size * bits / 8
        types["q8" if name in heads else f"codebook {group}"] += rows.size
        if name not in heads:
            values[name] = codebook.quantize(rows, group)
    return _held(values, num_bytes, types)


def hold_peer(peer: str, kind: str, folder: Path, matrices: Matrices) -> Held:
    """Converts `folder` with the peer's own tool where that has not been done. Raises EngineError."""
    engine = engines.Engine(peer, kind)
    engines.convert(engine, folder, again=False)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "weights.npz"
        script = engines.HERE / f"peers/{peer}_weights.py"
        command = (engine.python, script, folder, engine.artifact(folder), target)
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode != 0:
            raise EngineError(
                f"reading its weights ended with {ended.returncode}: {last_words(ended.stderr)}"
            )
        with np.load(target) as file:
            values = {name: file[name] for name in file.files if name != "types"}
            types: dict[str, tuple[str, int]] = json.loads(str(file["types"]))
    missing = sorted(set(matrices) - set(values))
    if missing:
        raise EngineError(f"its model has no {missing[0]}")
    shares = Counter[str]()
    for name, rows in matrices.items():
        shares[types[name][0]] += rows.size
    return _held({name: values[name] for name in matrices}, sum(types[n][1] for n in matrices), shares)


def relative_rms(held: Matrices, matrices: Matrices) -> float:
    """Of all matrices together: the root of squared error over squared weights."""
    error = sum(
        float(np.square(held[name] - rows, dtype=np.float64).sum()) for name, rows in matrices.items()
    )
    return float(
        np.sqrt(error / sum(float(np.square(rows, dtype=np.float64).sum()) for rows in matrices.values()))
    )


def _held(values: Matrices, num_bytes: float, types: Counter[str]) -> Held:
    weights = sum(types.values())
    return Held(values, num_bytes * 8 / weights, {kind: count / weights for kind, count in types.items()})
