"""Whether a series of measurements stays where it is: a line fitted to it, and how sure its slope is.

Pure arithmetic. Neighbouring measurements resemble each other (a busy minute follows a busy one), so the
fit counts fewer independent ones than there are: n (1 - r) / (1 + r), r the correlation of neighbouring
residuals, as Santer et al. do for trends of temperatures (J. Geophys. Res. 105 D6, 2000, equations 4 to 6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

FLAT, DRIFT, UNSURE = "FLAT", "DRIFT", "UNSURE"
LEAST = 4  # values that a line is fitted to
# Student's t, two-sided 95 %, for 1 to 10 degrees of freedom; beyond them a series is right to four digits.
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Trend:
    """Of values over times: what changed from the first to the last, and its 95 % confidence interval."""

    mean: float
    change: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def verdict(self, tolerance: float) -> str:
        """FLAT: the whole interval is within +-tolerance. DRIFT: the change is beyond it, and no chance.
        UNSURE: the values scatter too much to say either; measure for longer.
        """
        if max(abs(self.low), abs(self.high)) <= tolerance:
            return FLAT
        is_no_chance = self.low > 0 or self.high < 0
        return DRIFT if is_no_chance and abs(self.change) > tolerance else UNSURE


def fit(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Least squares. Raises ValueError below LEAST values, or where all times are the same."""
    if len(values) < LEAST or len(times) != len(values):
        raise ValueError(f"a trend needs {LEAST} values with their times, got {len(values)}")
    mean_time, mean = fmean(times), fmean(values)
    spread = sum((time - mean_time) ** 2 for time in times)
    if spread == 0:
        raise ValueError("all values are of the same time: there is no trend")
    slope = sum((t - mean_time) * (v - mean) for t, v in zip(times, values, strict=True)) / spread
    residuals = [v - mean - slope * (t - mean_time) for t, v in zip(times, values, strict=True)]
    independent = independent_values(residuals)
    error = math.sqrt(sum(e * e for e in residuals) / (independent - 2) / spread)
    half = t_95(independent - 2) * error
    span = max(times) - min(times)
    return Trend(mean, slope * span, (slope - half) * span, (slope + half) * span)


def independent_values(residuals: Sequence[float]) -> float:
    """How many independent values would say as much; from 3 to as many as there are."""
    power = sum(e * e for e in residuals)
    if power == 0:
        return float(len(residuals))
    correlation = sum(a * b for a, b in pairwise(residuals)) / power
    correlation = min(max(correlation, 0.0), 0.99)
    return max(3.0, len(residuals) * (1 - correlation) / (1 + correlation))


def t_95(freedom: float) -> float:
    """Half-width of the 95 % interval in standard errors; Cornish and Fisher's expansion past the table."""
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom; there must be at least 1")
    if freedom <= len(_T_95):
        below = int(freedom)
        low, high = _T_95[below - 1], _T_95[min(below, len(_T_95) - 1)]
        return low + (freedom - below) * (high - low)
    z = _Z_95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
