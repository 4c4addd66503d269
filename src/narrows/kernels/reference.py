"""The packed layouts and the linear operator in plain numpy: what the native core's bytes and sums mean.

In: packed bytes and their PackedShape, as documented in cpp/include/narrows/formats.h. Out: float32 matrices
and products. Slow, and independent of the core on purpose: it is the oracle of the kernel tests.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from narrows.kernels.formats import PANEL, PackedShape

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
CODE_MAX = 127  # int8 activations are symmetric


def unpack(data: Bytes, shape: PackedShape) -> Floats:
    """All values of a packed matrix, [n, k]."""
    panels = data.reshape(shape.panels, shape.panel_bytes)
    rows = np.concatenate([_panel(panel, shape) for panel in panels])
    return rows[: shape.n, : shape.k].astype(np.float32)


def quantize(x: Floats, group: int) -> tuple[npt.NDArray[np.int32], Floats]:
    """int8 codes [rows, groups, group] and scales [rows, groups]; a group of zeros has scale 0."""
    rows, k = x.shape
    padded = np.zeros((rows, -(-k // group) * group), dtype=np.float32)
    padded[:, :k] = x
    groups = padded.reshape(rows, -1, group)
    scale = np.abs(groups).max(axis=2) / np.float32(CODE_MAX)
    inverse = np.divide(np.float32(1.0), scale, out=np.zeros_like(scale), where=scale > 0)
    return np.rint(groups * inverse[:, :, None]).astype(np.int32), scale


def linear(data: Bytes, shape: PackedShape, x: Floats) -> npt.NDArray[np.float64]:
    """x @ W.T in float64 [rows, n]; quantized formats see the activations as their int8 codes."""
    weights = unpack(data, shape).astype(np.float64)
    if not shape.format.is_quantized:
        return x.astype(np.float64) @ weights.T
    codes, scale = quantize(x, shape.format.group)
    seen = (codes * scale[:, :, None].astype(np.float64)).reshape(len(x), -1)[:, : shape.k]
    return np.asarray(seen @ weights.T)


def _panel(panel: Bytes, shape: PackedShape) -> Floats:
    """One panel as [16, padded_k]."""
    match shape.format.name:
        case "p8":
            return _panel_p8(panel, shape)
        case "p4":
            return _panel_p4(panel, shape)
        case "bf16":
            halves = panel[: shape.k * PANEL * 2].view(np.uint16).astype(np.uint32)
            return (halves << 16).view(np.float32).reshape(shape.k, PANEL).T
        case "f16":
            return panel[: shape.k * PANEL * 2].view(np.float16).astype(np.float32).reshape(shape.k, PANEL).T
        case "f32":
            return panel[: shape.k * PANEL * 4].view(np.float32).reshape(shape.k, PANEL).T


def _panel_p8(panel: Bytes, shape: PackedShape) -> Floats:
    scale = panel[: shape.scale_bytes].view(np.float32)  # [16]
    lines = panel[shape.scale_bytes :].reshape(-1, PANEL, 4)  # line j, channel c, input 4j + i
    codes = lines.transpose(1, 0, 2).reshape(PANEL, -1).astype(np.int32) - 128
    return codes.astype(np.float32) * scale[:, None]


def _panel_p4(panel: Bytes, shape: PackedShape) -> Floats:
    groups = shape.groups
    scale = panel[: groups * PANEL * 2].view(np.float16).astype(np.float32).reshape(groups, PANEL)
    zero = np.full((groups, PANEL), 8, dtype=np.int32)
    if shape.format.has_zero:
        begin = shape.scale_bytes
        zero = panel[begin : begin + groups * PANEL].reshape(groups, PANEL).astype(np.int32)
    lines = panel[shape.scale_bytes + shape.zero_bytes :].reshape(-1, PANEL, 4)  # line j: inputs 8j .. 8j + 7
    nibbles = np.stack([lines & 15, lines >> 4], axis=2)  # [lines, channel, half, i]: input 8j + 4 half + i
    codes = nibbles.transpose(1, 0, 2, 3).reshape(PANEL, groups, -1).astype(np.int32)
    values = (codes - zero.T[:, :, None]).astype(np.float32) * scale.T[:, :, None]
    return values.reshape(PANEL, -1)
