"""Percentiles and means with confidence intervals, by resampling blocks of neighbouring requests.

Latencies of neighbours in time resemble each other (a full queue stays full), so single requests drawn at
random would promise too much: a circular block bootstrap draws runs of n ** (1/3) requests (Politis and
Romano 1992). Seeded: the same data gives the same interval. Knows no requests, only groups of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 1000
NUM_RESAMPLES_OF_MANY = 200  # above MANY numbers
MANY = 20_000
MAX_CELLS = 2_000_000  # of a table of draws held at once
LEVEL = 0.95
PERCENTILES = (50, 90, 95, 99)

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval. `is_thin`: fewer numbers than its percentile needs to have one beyond
    it.
    """

    value: float
    low: float
    high: float
    is_thin: bool = False


@dataclass(frozen=True, slots=True)
class Distribution:
    """`count` numbers. `percentiles`: by 50, 90, 95, 99."""

    count: int
    mean: Estimate
    percentiles: dict[int, Estimate]
    low: float
    high: float


def percentile(ordered: Sequence[float] | Numbers, percent: float) -> float:
    """Linear between the closest ranks (numpy's default, Hyndman and Fan's type 7) of ascending numbers."""
    rank = (len(ordered) - 1) * percent / 100
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (ordered[high] - ordered[low]) * (rank - low))


def describe(groups: Sequence[Sequence[float]], *, seed: int = 0) -> Distribution | None:
    """Of all numbers of all groups; a group (the ITLs of a request) is drawn whole. None where there are
    none.
    """
    numbers = _Grouped.of(groups)
    if numbers is None:
        return None
    means, quantiles = numbers.resampled(PERCENTILES, num_resamples=_num_resamples(numbers.count), seed=seed)
    ordered = numbers.ordered
    return Distribution(
        count=numbers.count,
        mean=_estimate(float(ordered.mean()), means),
        percentiles={
            percent: _estimate(
                percentile(ordered, percent), quantiles[:, i], is_thin=is_thin(numbers.num_groups, percent)
            )
            for i, percent in enumerate(PERCENTILES)
        },
        low=float(ordered[0]),
        high=float(ordered[-1]),
    )


def is_thin(num_groups: int, percent: float) -> bool:
    """Whether so few requests have none to spare beyond the percentile."""
    return num_groups * (100 - percent) < 100


def ratio_interval(
    groups_a: Sequence[Sequence[float]],
    groups_b: Sequence[Sequence[float]],
    percent: int | None,
    *,
    seed: int = 0,
) -> Estimate | None:
    """A percentile of B over A's (`percent` None: of the means), both drawn anew each time. None where one of
    them is empty or A's is zero.
    """
    sides = [_Grouped.of(groups) for groups in (groups_a, groups_b)]
    if sides[0] is None or sides[1] is None:
        return None
    num = min(_num_resamples(side.count) for side in sides if side is not None)
    values, draws = [], []
    for i, side in enumerate(side for side in sides if side is not None):
        means, quantiles = side.resampled((percent or 50,), num_resamples=num, seed=seed + i)
        draws.append(means if percent is None else quantiles[:, 0])
        values.append(float(side.ordered.mean()) if percent is None else percentile(side.ordered, percent))
    usable = draws[0] > 0
    if values[0] <= 0 or not usable.any():
        return None
    return _estimate(values[1] / values[0], draws[1][usable] / draws[0][usable])


@dataclass(frozen=True, slots=True)
class _Grouped:
    """Numbers in ascending order, each with the group it belongs to."""

    ordered: Numbers
    owner: npt.NDArray[np.int64]
    num_groups: int

    @staticmethod
    def of(groups: Sequence[Sequence[float]]) -> _Grouped | None:
        """Empty groups are left out. None where there is no number."""
        filled = [np.asarray(group, dtype=np.float64) for group in groups if len(group) > 0]
        if not filled:
            return None
        numbers = np.concatenate(filled)
        order = np.argsort(numbers, kind="stable")
        owner = np.repeat(np.arange(len(filled)), [len(group) for group in filled])
        return _Grouped(numbers[order], owner[order], len(filled))

    @property
    def count(self) -> int:
        return len(self.ordered)

    def resampled(self, percents: Sequence[int], *, num_resamples: int, seed: int) -> tuple[Numbers, Numbers]:
        """Means [draws] and percentiles [draws, percents] of the numbers of groups drawn anew."""
        draws = _draws(self.num_groups, num_resamples, seed)
        rows = max(1, MAX_CELLS // self.count)
        means, quantiles = [], []
        for begin in range(0, num_resamples, rows):
            weights = draws[begin : begin + rows][:, self.owner]
            means.append((weights @ self.ordered) / weights.sum(axis=1))
            quantiles.append(_weighted(self.ordered, np.cumsum(weights, axis=1), percents))
        return np.concatenate(means), np.concatenate(quantiles)


def rate_interval(counts: Sequence[float], seconds_each: float, *, seed: int = 0) -> Estimate:
    """The rate of something counted in equal slices of time."""
    numbers = np.asarray(counts, dtype=np.float64)
    draws = _draws(len(numbers), NUM_RESAMPLES, seed) @ numbers / (len(numbers) * seconds_each)
    return _estimate(float(numbers.mean() / seconds_each), draws)


def _draws(count: int, num_resamples: int, seed: int) -> npt.NDArray[np.int64]:
    """How often each of `count` groups is drawn: [num_resamples, count]."""
    random = np.random.default_rng(seed)
    block = max(1, int(count ** (1 / 3) + 1e-9))  # of few requests, one by one
    starts = random.integers(0, count, (num_resamples, -(-count // block)))
    picks = ((starts[:, :, None] + np.arange(block)) % count).reshape(num_resamples, -1)[:, :count]
    rows = np.arange(num_resamples)[:, None] * count
    flat = np.bincount((picks + rows).ravel(), minlength=num_resamples * count)
    return flat.reshape(num_resamples, count)


def _weighted(ordered: Numbers, ends: npt.NDArray[np.int64], percents: Sequence[int]) -> Numbers:
    """Percentiles [rows, percents] of `ordered` with number i repeated until there are ends[row, i], without
    repeating anything.
    """
    columns = []
    for percent in percents:
        rank = (ends[:, -1] - 1) * percent / 100
        low = rank.astype(np.int64)
        high = np.minimum(low + 1, ends[:, -1] - 1)
        below, above = (ordered[(ends <= place[:, None]).sum(axis=1)] for place in (low, high))
        columns.append(below + (above - below) * (rank - low))
    return np.stack(columns, axis=1)


def _estimate(value: float, draws: Numbers, *, is_thin: bool = False) -> Estimate:
    tail = (1 - LEVEL) / 2 * 100
    low, high = (float(np.percentile(draws, percent)) for percent in (tail, 100 - tail))
    return Estimate(value, low, high, is_thin)


def _num_resamples(count: int) -> int:
    return NUM_RESAMPLES if count <= MANY else NUM_RESAMPLES_OF_MANY
