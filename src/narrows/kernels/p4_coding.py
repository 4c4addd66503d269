"""Which scales and zero points P4 chooses, in plain numpy: the meaning of the core's code_p4, bit for bit.

In: float32 groups [groups, group]. Out: P4Groups: codes, scales, zero points. Every operation is the core's,
in float32 and in its order (sums over ascending inputs, nothing fused). Slow; it is the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
F16_MAX: Final = np.float32(65504.0)
# Steps tried, as parts of the step that spans the extremes; kSteps of cpp/src/ops/code_p4.cpp.
STEPS: Final = tuple(np.float32(step) for step in (0.70, 0.75, 0.80, 0.85, 0.90, 0.95, 1.00, 1.05))


@dataclass(frozen=True, slots=True)
class P4Groups:
    """Values are scale * (code - zero)."""

    codes: npt.NDArray[np.int32]  # [groups, group], 0..15
    scale: Floats  # [groups], as f16 holds it
    zero: npt.NDArray[np.int32]  # [groups], 0..15; 8 where none is stored

    @property
    def values(self) -> Floats:  # [groups, group]
        return (self.codes - self.zero[:, None]).astype(np.float32) * self.scale[:, None]


@dataclass(slots=True)
class _Grid:
    """Values scale * c with integer c in [low, low + 15]."""

    scale: Floats
    low: Floats


def code_groups(groups: Floats, *, has_zero: bool, search: bool = True) -> P4Groups:
    """Codes of least squared error among the grids tried. `search` off: rounding to nearest between the
    extremes, which is what the search starts from and is never worse than."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # of grids that are not chosen
        best, least = _round_affine(groups) if has_zero else _round_symmetric(groups)
        if search:
            found = _search(groups, _affine_grids(groups) if has_zero else _symmetric_grids(groups), best)
            best, _ = _better(found, _error(groups, found), best, least, np.less)
        codes = (_nearest(groups, best) - best.low[:, None]).astype(np.int32)
    return P4Groups(codes, best.scale, -best.low.astype(np.int32))


def _max(a: Floats, b: Floats) -> Floats:
    return np.where(a > b, a, b)


def _min(a: Floats, b: Floats) -> Floats:
    return np.where(a < b, a, b)


def _clamp(x: Floats, low: object, high: object) -> Floats:
    return _min(_max(x, np.float32(low)), np.float32(high))  # type: ignore[arg-type]


def _through_f16(x: Floats) -> Floats:
    return _clamp(x, -F16_MAX, F16_MAX).astype(np.float16).astype(np.float32)


def _inverse(scale: Floats) -> Floats:
    return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def _nearest(groups: Floats, grid: _Grid) -> Floats:
    """The integers c of every value, [groups, group]."""
    low = grid.low[:, None]
    return np.rint(_min(_max(groups * _inverse(grid.scale)[:, None], low), low + np.float32(15)))


def _sum(terms: Floats) -> Floats:
    """Over ascending inputs, one float32 addition each: np.sum would add in pairs."""
    total = np.zeros(len(terms), np.float32)
    for column in terms.T:
        total = total + column
    return total


def _error(groups: Floats, grid: _Grid) -> Floats:
    off = groups - _nearest(groups, grid) * grid.scale[:, None]
    return _sum(off * off)


def _better(
    grid: _Grid, merit: Floats, best: _Grid, best_merit: Floats, wins: Callable[..., npt.NDArray[np.bool_]]
) -> tuple[_Grid, Floats]:
    taken = wins(merit, best_merit)
    return (
        _Grid(np.where(taken, grid.scale, best.scale), np.where(taken, grid.low, best.low)),
        np.where(taken, merit, best_merit),
    )


def _search(groups: Floats, grids: list[_Grid], best: _Grid) -> _Grid:
    """Of each grid the codes, then the scale that suits these codes best, <w, c> / <c, c>: the one whose
    squared error is furthest below <w, w>."""
    best_gain = np.zeros(len(groups), np.float32)
    for grid in grids:
        codes = _nearest(groups, grid)
        dot, norm = _sum(groups * codes), _sum(codes * codes)
        scale = _through_f16(np.where(norm == 0, np.float32(0), dot / norm))
        gain = np.float32(2) * scale * dot - scale * scale * norm
        best, best_gain = _better(_Grid(scale, grid.low), gain, best, best_gain, np.greater)
    return best


def _top(groups: Floats) -> Floats:
    return _max(groups.max(axis=1), np.float32(0))  # type: ignore[arg-type]


def _bottom(groups: Floats) -> Floats:
    return _min(groups.min(axis=1), np.float32(0))  # type: ignore[arg-type]


def _extreme(groups: Floats) -> Floats:
    top, bottom = _top(groups), _bottom(groups)
    return np.where(top >= -bottom, top, bottom)


def _round_symmetric(groups: Floats) -> tuple[_Grid, Floats]:
    """max|w| is 7 steps, or the end with 8 of them: whichever leaves the smaller error."""
    extreme, low = _extreme(groups), np.full(len(groups), -8, np.float32)
    even = _Grid(_through_f16(_max(extreme, -extreme) / np.float32(7)), low)
    skew = _Grid(_through_f16(extreme / np.float32(-8)), low)
    return _better(skew, _error(groups, skew), even, _error(groups, even), np.less)


def _symmetric_grids(groups: Floats) -> list[_Grid]:
    extreme, low = _extreme(groups), np.full(len(groups), -8, np.float32)
    ends = (np.float32(-8), np.float32(8))
    return [_Grid(_through_f16(extreme / end * step), low) for end in ends for step in STEPS]


def _full_step(groups: Floats) -> Floats:
    return _top(groups) / np.float32(15) - _bottom(groups) / np.float32(15)


def _round_affine(groups: Floats) -> tuple[_Grid, Floats]:
    """16 steps over [min(w, 0), max(w, 0)]."""
    scale = _through_f16(_full_step(groups))
    low = np.rint(_clamp(_bottom(groups) / scale, -15, 0))
    grid = _Grid(scale, np.where(scale == 0, np.float32(-8), low))
    return grid, _error(groups, grid)


def _affine_grids(groups: Floats) -> list[_Grid]:
    """Grids narrower than the range lose as much at one end as at the other."""
    full, half = _full_step(groups), np.float32(0.5)
    middle = _top(groups) * half + _bottom(groups) * half
    grids = []
    for step in STEPS:
        scale = _through_f16(full * step)
        low = np.rint(_clamp(middle * _inverse(scale) - np.float32(7.5), -15, 0))
        grids.append(_Grid(scale, low))
    return grids
