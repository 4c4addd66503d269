"""From row-major weights to packed bytes, through the native core.

In: numpy arrays and a PackedShape. Out: bytes written into a buffer the caller owns, or an error for weights
that are not finite. Knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from narrows import _core
from narrows.errors import InvalidModel
from narrows.kernels.formats import PackedShape

F16_MAX = 65504.0
LAYOUT_VERSION: int = _core.LAYOUT_VERSION
Bytes = npt.NDArray[np.uint8]
Weights = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]


def pack_matrix(
    sources: Sequence[Weights],
    shape: PackedShape,
    *,
    out: Bytes,
    interleave: bool,
    name: str,
    pool: _core.ThreadPool,
) -> None:
    """Packs sources one below the other, or panel by panel; `name` is for the error about NaN."""
    non_finite, largest = _core.pack(
        sources,
        out,
        format=shape.format.name,
        group=shape.format.group,
        has_zero=shape.format.has_zero,
        interleave=interleave,
        pool=pool,
    )
    if non_finite and shape.format.name == "f16" and F16_MAX < largest < float("inf"):
        raise InvalidModel(
            f"{name} holds values up to {largest:.3g}, more than f16's {F16_MAX:.0f}; "
            "load it with --weights bf16"
        )
    if non_finite:
        raise InvalidModel(
            f"{name} holds {non_finite} values that are NaN or infinite; download the model again"
        )


def unpack_matrix(data: Bytes, shape: PackedShape) -> npt.NDArray[np.float32]:
    """All values of a packed matrix, [n, k]."""
    return _core.unpack(data, **_options(shape))


def make_linear(data: Bytes, shape: PackedShape, bias: npt.NDArray[np.float32] | None) -> _core.Linear:
    """The native core's view of a packed matrix."""
    return _core.Linear(data, bias=bias, **_options(shape))


def _options(shape: PackedShape) -> dict[str, Any]:
    form = shape.format
    return {"format": form.name, "n": shape.n, "k": shape.k, "group": form.group, "has_zero": form.has_zero}
