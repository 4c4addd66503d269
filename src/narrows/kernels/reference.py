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
    panels = data[: shape.first_bytes].reshape(shape.panels, shape.panel_bytes)
    lower = data[shape.first_bytes :].reshape(shape.panels, shape.lower_bytes)
    rows = np.concatenate([_panel(*pair, shape) for pair in zip(panels, lower, strict=True)])
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


def _panel(panel: Bytes, lower: Bytes, shape: PackedShape) -> Floats:
    """One panel as [16, padded_k]; `lower` is its part of the lower plane of p44."""
    match shape.format.name:
        case "p44":
            return _panel_p44(panel, lower, shape)
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


def _panel_p44(panel: Bytes, lower: Bytes, shape: PackedShape) -> Floats:
    scale = panel[: PANEL * 4].view(np.float32)
    codes = 16 * _nibbles(panel[shape.scale_bytes :]) + _nibbles(lower) - 128
    return codes.astype(np.float32) * scale[:, None]


def _nibbles(lines: Bytes) -> npt.NDArray[np.int32]:
    """[16, padded_k] of lines of 8 inputs: line j, channel c, half h, i is input 8j + 4h + i."""
    apart = lines.reshape(-1, PANEL, 4)
    nibbles = np.stack([apart & 15, apart >> 4], axis=2)
    return nibbles.transpose(1, 0, 2, 3).reshape(PANEL, -1).astype(np.int32)


def _panel_p4(panel: Bytes, shape: PackedShape) -> Floats:
    groups = shape.groups
    scale = panel[: groups * PANEL * 2].view(np.float16).astype(np.float32).reshape(groups, PANEL)
    zero = np.full((groups, PANEL), 8, dtype=np.int32)
    if shape.format.has_zero:
        begin = shape.scale_bytes
        zero = panel[begin : begin + groups * PANEL].reshape(groups, PANEL).astype(np.int32)
    codes = _nibbles(panel[shape.scale_bytes + shape.zero_bytes :]).reshape(PANEL, groups, -1)
    values = (codes - zero.T[:, :, None]).astype(np.float32) * scale.T[:, :, None]
    return values.reshape(PANEL, -1)
