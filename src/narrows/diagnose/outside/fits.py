"""A line through TTFT over prompt length, and medians with intervals.

In: numbers. Out: Interval, Line. Lengths are weighted by TTFT^-1/2 (variance grows with time);
intervals come from drawing each length's requests anew (bootstrap, Efron 1979).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from narrows.bench.intervals import describe
from narrows.diagnose.outside.seen import Interval, LengthSeen, Line

NUM_DRAWS = 400
MIN_BEND = 0.1  # of the longest prompt's TTFT; less of a square is not worth telling
LENGTHS_FOR_BEND = 4
Numbers = npt.NDArray[np.float64]


def median(values: Sequence[float]) -> Interval | None:
    """Of numbers from requests of their own; None of no number."""
    found = describe([(value,) for value in values])
    if found is None:
        return None
    middle = found.percentiles[50]
    return Interval(middle.value, middle.low, middle.high, found.count)


def fit(lengths: Sequence[LengthSeen], *, seed: int = 0) -> Line | None:
    """None below two lengths."""
    tokens = np.array([one.prompt_tokens for one in lengths], dtype=np.float64)
    if len(set(tokens)) < 2:
        return None
    medians = np.array([one.ttft_s.value for one in lengths])
    random = np.random.default_rng(seed)
    draws = np.array([_redrawn(lengths, random) for _ in range(NUM_DRAWS)])
    count = sum(one.ttft_s.count for one in lengths)
    bend = None
    if len(set(tokens)) >= LENGTHS_FOR_BEND:
        shares = [_bend(tokens, row) for row in draws]
        bend = _interval(_bend(tokens, medians), shares, count)
    is_bent = bend is not None and bend.low > 0 and bend.value > MIN_BEND
    degree = 2 if is_bent else 1
    whole = _polynomial(tokens, medians, degree)
    drawn = np.array([_polynomial(tokens, row, degree) for row in draws])
    return Line(
        overhead_s=_interval(whole[-1], drawn[:, -1], count),
        per_token_s=_interval(whole[-2], drawn[:, -2], count),
        per_token_squared_s=max(0.0, float(whole[0])) if is_bent else 0.0,
        longest=int(tokens.max()),
        bend=bend,
    )


def _redrawn(lengths: Sequence[LengthSeen], random: np.random.Generator) -> list[float]:
    return [float(np.median(random.choice(one.all_s, len(one.all_s)))) for one in lengths]


def _polynomial(tokens: Numbers, ttft_s: Numbers, degree: int) -> Numbers:
    """Coefficients, the highest power first. No time is negative: overhead and slope are cut at 0."""
    fitted: Numbers = np.polyfit(tokens, ttft_s, degree, w=ttft_s**-0.5)
    fitted[-2:] = np.maximum(fitted[-2:], 0.0)
    return fitted


def _bend(tokens: Numbers, ttft_s: Numbers) -> float:
    square = np.polyfit(tokens, ttft_s, 2, w=ttft_s**-0.5)[0]
    return float(square * tokens.max() ** 2 / ttft_s[tokens.argmax()])


def _interval(value: float, draws: Sequence[float] | Numbers, count: int) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(value), float(low), float(high), count)
