"""A trial of a non-linear 4-bit format, in numpy only: 16 levels for normal weights, a signed 8-bit scale per
group, one f16 over the scales of 256 inputs.

The levels were found here (`python codebook.py`): Lloyd's iteration over normal weights in groups of 32, each
group with the scale that suits it best, rounded to int8.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
LEVELS = (-127, -99, -79, -63, -49, -36, -24, -12, 0, 12, 24, 37, 51, 66, 86, 112)
SUPER = 256  # inputs under one f16
STEPS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.95, 1.00, 1.05)
TRAINED_ON = 30000  # groups of 32
ITERATIONS = 25


def bits_per_weight(group: int) -> float:
    return 4 + 8 / group + 16 / SUPER


def quantize(rows: Floats, group: int, levels: tuple[int, ...] = LEVELS) -> Floats:
    """The values that the format would hold, [n, k]."""
    n, k = rows.shape
    width = -(-k // SUPER) * SUPER
    groups = np.pad(rows.astype(np.float64), ((0, 0), (0, width - k))).reshape(-1, group)
    book = np.asarray(levels, np.float64)
    scales = best_scales(groups, book).reshape(-1, SUPER // group)
    over = (np.abs(scales).max(axis=1, keepdims=True) / 127).astype(np.float16).astype(np.float64)
    kept = (np.rint(_divide(scales, over)) * over).reshape(-1)
    values = book[nearest(_divide(groups, kept[:, None]), book)] * kept[:, None]
    return values.reshape(n, width)[:, :k].astype(np.float32)


def nearest(x: Doubles, book: Doubles) -> npt.NDArray[np.intp]:
    return np.searchsorted((book[1:] + book[:-1]) / 2, x)


def best_scales(groups: Doubles, book: Doubles) -> Doubles:
    """Of both signs and every step the scale of the least squared error, refitted to its codes."""
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], axis=1)[:, 0]
    end = book[np.abs(book).argmax()]
    best, most = np.zeros(len(groups)), np.zeros(len(groups))
    for step in (sign * step for sign in (1, -1) for step in STEPS):
        codes = book[nearest(_divide(groups, (extreme / end * step)[:, None]), book)]
        dot, norm = (groups * codes).sum(axis=1), (codes * codes).sum(axis=1)
        scale = _divide(dot, norm)
        gain = scale * dot
        best, most = np.where(gain > most, scale, best), np.maximum(gain, most)
    return best


def train(groups: Doubles) -> tuple[int, ...]:
    """Levels by Lloyd's iteration: codes and scales, then each level's mean, weighed by scale squared."""
    book = np.linspace(-1.0, 7 / 8, 16)
    for _ in range(ITERATIONS):
        scale = best_scales(groups, book)[:, None]
        codes = nearest(_divide(groups, scale), book).ravel()
        weight = np.broadcast_to(scale * scale, groups.shape).ravel()
        book = np.sort(np.bincount(codes, (groups * scale).ravel(), 16) / np.bincount(codes, weight, 16))
        book /= np.abs(book).max()
    return tuple(int(level) for level in np.rint(book * 127))


def _divide(a: Doubles, b: Doubles) -> Doubles:
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


if __name__ == "__main__":
    print(train(np.random.default_rng(1).standard_normal((TRAINED_ON, 32))))
