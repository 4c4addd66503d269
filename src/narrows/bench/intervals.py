"""Percentiles and means with confidence intervals, by resampling blocks of neighbouring requests.

Latencies of neighbours in time resemble each other (a full queue stays full), so single requests drawn at
random would promise too much: a circular block bootstrap draws runs of n ** (1/3) requests (Politis and
Romano 1992). Seeded: the same data gives the same interval. Knows no requests, only groups of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 1000
NUM_RESAMPLES_OF_MANY = 200  # above MANY numbers
MANY = 20_000
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
    numbers = (
        np.concatenate([np.asarray(group, dtype=np.float64) for group in groups]) if groups else np.empty(0)
    )
    if len(numbers) == 0:
        return None
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    order = np.argsort(numbers, kind="stable")
    ordered, owner = numbers[order], owner[order]
    means, quantiles = [], []
    for weights in _draws(len(groups), _num_resamples(len(numbers)), seed):
        weight = weights[owner]
        total = weight.sum()
        if total > 0:
            means.append(float((ordered * weight).sum() / total))
            quantiles.append(_weighted(ordered, weight))
    columns = np.asarray(quantiles)
    return Distribution(
        count=len(numbers),
        mean=_estimate(float(numbers.mean()), np.asarray(means)),
        percentiles={
            percent: _estimate(
                percentile(ordered, percent), columns[:, i], is_thin=len(groups) * (100 - percent) < 100
            )
            for i, percent in enumerate(PERCENTILES)
        },
        low=float(ordered[0]),
        high=float(ordered[-1]),
    )


def ratio_interval(
    groups_a: Sequence[Sequence[float]],
    groups_b: Sequence[Sequence[float]],
    statistic: Callable[[Numbers], float],
    *,
    seed: int = 0,
) -> Estimate | None:
    """statistic(B) / statistic(A), both drawn anew each time; None where one of them is empty or zero."""
    whole = [np.concatenate([np.asarray(g, dtype=np.float64) for g in groups] or [np.empty(0)])
             for groups in (groups_a, groups_b)]  # fmt: skip
    if not len(whole[0]) or not len(whole[1]) or statistic(whole[0]) == 0:
        return None
    num = _num_resamples(max(len(numbers) for numbers in whole))
    draws = zip(_draws(len(groups_a), num, seed), _draws(len(groups_b), num, seed + 1), strict=True)
    ratios = []
    for draw_a, draw_b in draws:
        first, second = _repeated(groups_a, draw_a), _repeated(groups_b, draw_b)
        if len(first) and len(second) and (below := statistic(first)) > 0:
            ratios.append(statistic(second) / below)
    return _estimate(statistic(whole[1]) / statistic(whole[0]), np.asarray(ratios)) if ratios else None


def rate_interval(counts: Sequence[float], seconds_each: float, *, seed: int = 0) -> Estimate:
    """The rate of something counted in equal slices of time."""
    numbers = np.asarray(counts, dtype=np.float64)
    draws = [
        float((numbers * weights).sum() / (weights.sum() * seconds_each))
        for weights in _draws(len(numbers), NUM_RESAMPLES, seed)
    ]
    return _estimate(float(numbers.mean() / seconds_each), np.asarray(draws))


def _draws(count: int, num_resamples: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """How often each of `count` groups is drawn, `num_resamples` times over."""
    random = np.random.default_rng(seed)
    block = max(1, int(count ** (1 / 3) + 1e-9))  # of few requests, one by one
    num_blocks = -(-count // block)
    starts = random.integers(0, count, (num_resamples, num_blocks))
    picks = (starts[:, :, None] + np.arange(block)) % count
    return [np.bincount(row.ravel()[:count], minlength=count) for row in picks]


def _repeated(groups: Sequence[Sequence[float]], draw: npt.NDArray[np.int64]) -> Numbers:
    parts = [np.tile(np.asarray(groups[i], dtype=np.float64), draw[i]) for i in np.flatnonzero(draw).tolist()]
    return np.concatenate(parts) if parts else np.empty(0)


def _weighted(ordered: Numbers, weight: npt.NDArray[np.int64]) -> list[float]:
    """Percentiles of `ordered` with every number repeated `weight` times, without repeating it."""
    ends = np.cumsum(weight)
    ranks = (ends[-1] - 1) * np.asarray(PERCENTILES) / 100
    low = ranks.astype(np.int64)
    high = np.minimum(low + 1, ends[-1] - 1)
    below = ordered[np.searchsorted(ends, low, side="right")]
    above = ordered[np.searchsorted(ends, high, side="right")]
    return [float(value) for value in below + (above - below) * (ranks - low)]


def _estimate(value: float, draws: Numbers, *, is_thin: bool = False) -> Estimate:
    tail = (1 - LEVEL) / 2 * 100
    low, high = (float(np.percentile(draws, percent)) for percent in (tail, 100 - tail))
    return Estimate(value, low, high, is_thin)


def _num_resamples(count: int) -> int:
    return NUM_RESAMPLES if count <= MANY else NUM_RESAMPLES_OF_MANY
