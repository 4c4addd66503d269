"""Packs a checkpoint by a plan, into the cache file or into memory, and hands out the packed tensors.

In: PackPlan, checkpoint, thread pool. Out: PackedWeights, looked up by LinearSpec, NormSpec or tensor.
Packing streams: beside the packed bytes only one tensor is in memory. Knows nothing of layers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from narrows import _core
from narrows.errors import InvalidModel
from narrows.kernels.cache import (
    CacheEntry,
    cache_entry,
    cache_folder,
    cache_writer,
    huge_memory,
    map_cache,
)
from narrows.kernels.formats import PANEL, round_up
from narrows.kernels.packing import LAYOUT_VERSION, Bytes, make_linear, pack_matrix
from narrows.models.checkpoint import Checkpoint, all_finite, widen
from narrows.models.spec import LinearSpec, NormSpec, TensorSlice
from narrows.runners.memory import available_bytes
from narrows.runners.plan import PackPlan, PlannedMatrix, PlannedVector

log = logging.getLogger(__name__)

ROOMY = 2  # weights move into memory of their own where this many times their size is free
Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]  # (tensors done, tensors in all)


class PhaseClock(Protocol):
    """Measures the seconds of named phases."""

    def measure(self, name: str) -> AbstractContextManager[None]: ...


class PackedWeights:
    """A plan and its bytes."""

    def __init__(
        self, plan: PackPlan, data: Bytes, *, from_cache: bool = False, is_cached: bool = False
    ) -> None:
        self.plan = plan
        self.data = data
        self.from_cache = from_cache  # read from disk
        self.is_cached = is_cached  # on disk now
        self._matrices = {matrix.linear: matrix for matrix in plan.matrices}
        self._vectors = {vector.parts: vector for vector in plan.vectors}

    def linear(self, spec: LinearSpec) -> _core.Linear:
        """The native view of a planned matrix, with its bias."""
        planned = self._matrices[spec]
        data = self.data[planned.begin : planned.begin + planned.shape.num_bytes]
        return make_linear(data, planned.shape, self.floats(spec.biases) if spec.biases else None)

    def norm(self, spec: NormSpec | None) -> _core.Norm | None:
        if spec is None:
            return None
        weight = self.floats((TensorSlice(spec.weight),))
        return _core.Norm(weight, None if spec.bias is None else self.floats((TensorSlice(spec.bias),)))

    def floats(self, parts: tuple[TensorSlice, ...]) -> Floats:
        """A planned vector."""
        planned = self._vectors[parts]
        return self.data[planned.begin : planned.begin + planned.length * 4].view(np.float32)


def load_weights(
    plan: PackPlan,
    checkpoint: Checkpoint,
    *,
    folder: Path,
    pool: _core.ThreadPool,
    use_cache: bool,
    progress: Progress | None,
    times: PhaseClock,
) -> PackedWeights:
    """Reads the cached bytes, or packs them and caches them where the disk allows it.

    `progress(0, total)` is called when the weights' turn comes, then again after each packed tensor.
    """
    if progress is not None:
        progress(0, _num_parts(plan))
    where = _cache_folder() if use_cache else None
    if where is None:
        with times.measure("pack"):
            return PackedWeights(plan, _pack_in_memory(plan, checkpoint, pool, progress))
    digest = plan.digest()
    entry = cache_entry(
        where,
        slot=f"{folder.resolve()} {plan.recipe}",
        key=f"{checkpoint.fingerprint} {digest} {LAYOUT_VERSION}",
        num_bytes=plan.num_bytes,
    )
    roomy = available_bytes() >= ROOMY * plan.num_bytes
    with times.measure("verify"):
        file, reason = map_cache(entry, pool)
    from_cache = file is not None
    if reason:
        log.warning("packed weights %s are %s; packing again", entry.path, reason)
    if file is None:
        with times.measure("pack"):
            file = _pack_into_cache(plan, checkpoint, entry, pool, progress)
    if file is None:
        with times.measure("pack"):
            return PackedWeights(plan, _pack_in_memory(plan, checkpoint, pool, progress))
    if roomy:
        file.start_moving()
    return PackedWeights(plan, file.data, from_cache=from_cache, is_cached=True)


def _cache_folder() -> Path | None:
    try:
        return cache_folder()
    except RuntimeError as error:  # a user without a home, as in some containers
        log.warning("packed weights are not kept (%s); set NARROWS_CACHE_DIR to keep them", error)
        return None


def _pack_into_cache(
    plan: PackPlan,
    checkpoint: Checkpoint,
    entry: CacheEntry,
    pool: _core.ThreadPool,
    progress: Progress | None,
) -> _core.WeightFile | None:
    """None, and a warning, where the disk does not take them."""
    try:
        with cache_writer(entry) as writer:
            _pack(plan, checkpoint, writer.data, pool, progress)
            return writer.commit(pool)
    except OSError as error:
        log.warning("packed weights cannot be kept in %s (%s); packing in memory", entry.path.parent, error)
        return None


def _pack_in_memory(
    plan: PackPlan, checkpoint: Checkpoint, pool: _core.ThreadPool, progress: Progress | None
) -> Bytes:
    data = huge_memory(plan.num_bytes)
    _pack(plan, checkpoint, data, pool, progress)
    return data


def _num_parts(plan: PackPlan) -> int:
    return len(plan.matrices) + len(plan.vectors) + (plan.rows is not None)


def _pack(
    plan: PackPlan, checkpoint: Checkpoint, data: Bytes, pool: _core.ThreadPool, progress: Progress | None
) -> None:
    total = _num_parts(plan)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    for vector in plan.vectors:
        out = data[vector.begin : vector.begin + 4 * vector.length].view(np.float32)
        _write_vector(vector, checkpoint, out)
        advance()
    for matrix in plan.matrices:
        _write_matrix(matrix, checkpoint, data, pool)
        advance()
    if plan.rows is not None:  # stays in the checkpoint, but must be sound like the rest
        _check_finite(checkpoint.tensor(plan.rows), plan.rows)
        checkpoint.release(plan.rows)
        advance()


def _write_matrix(matrix: PlannedMatrix, checkpoint: Checkpoint, data: Bytes, pool: _core.ThreadPool) -> None:
    parts = matrix.linear.weights
    pack_matrix(
        [checkpoint.take(part) for part in parts],
        matrix.shape,
        out=data[matrix.begin : matrix.begin + matrix.shape.num_bytes],
        interleave=matrix.linear.interleave,
        name=", ".join(dict.fromkeys(part.name for part in parts)),
        pool=pool,
    )
    for part in parts:
        checkpoint.release(part.name)


def _write_vector(vector: PlannedVector, checkpoint: Checkpoint, out: Floats) -> None:
    parts = []
    for part in vector.parts:
        values = checkpoint.take(part)
        _check_finite(values, part.name)
        parts.append(widen(values).reshape(-1))
    if vector.padded:
        padded = [
            np.pad(part, (0, round_up(len(part), PANEL) - len(part))).reshape(-1, PANEL) for part in parts
        ]
        parts = [np.stack(padded, axis=1).reshape(-1)]  # panel by panel, as the rows of the matrix
    joined = np.concatenate(parts)
    if len(joined) != vector.length:
        raise InvalidModel(
            f"{vector.parts[0].name} has {len(joined)} values where {vector.length} are needed"
        )
    out[:] = joined + np.float32(1.0) if vector.add_one else joined


def _check_finite(values: npt.NDArray[np.generic], name: str) -> None:
    if not all_finite(values):  # type: ignore[arg-type]
        raise InvalidModel(f"{name} holds values that are NaN or infinite; download the model again")
