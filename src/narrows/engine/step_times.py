"""How long a step of m rows takes on this machine now, T(m), learned from the steps themselves.

In: (rows, seconds) of steps without prompts. Out: estimates for any number of rows. Reads no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from statistics import median

# Rows that are told apart. Between them a step's time hardly changes, and a time for each number of rows would
# be measured too seldom.
GRID = (*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 256, 512)
NUM_KEPT = 5  # last times of a number of rows; their median forgets a step that the machine interrupted
STALE_STEPS = 1024  # a time that has not been seen for so long is measured again when it matters
# Of the nearest time known, per row more: what rows are taken to cost before they were ever measured. Less than
# they cost anywhere, so that they are tried; the first trial tells.
HOPED_ROW = 0.02


class StepTimes:
    """Medians of the last times per number of rows; between two known ones, the line between them."""

    def __init__(self) -> None:
        self._times: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self._seen: dict[int, int] = {}
        self._num_steps = 0

    def add(self, num_rows: int, seconds: float) -> None:
        rows = grid_rows(num_rows)
        self._num_steps += 1
        times = self._times.setdefault(rows, deque(maxlen=NUM_KEPT))
        if self.age(rows) > STALE_STEPS:
            times.clear()
        times.append(seconds)
        self._medians[rows] = median(times)
        self._seen[rows] = self._num_steps

    def age(self, num_rows: int) -> int:
        """Steps since one of so many rows; beyond STALE_STEPS where there was none."""
        seen = self._seen.get(grid_rows(num_rows))
        return STALE_STEPS + 1 if seen is None else self._num_steps - seen

    def estimate(self, num_rows: int) -> float | None:
        """Seconds of a step of so many rows; None before any step was seen."""
        rows = grid_rows(num_rows)
        known = sorted(at for at in self._medians if self.age(at) <= STALE_STEPS)
        if not known:
            return None
        place = bisect_left(known, rows)
        if place < len(known) and known[place] == rows:
            return self._medians[rows]
        if place == 0:
            above = known[0]
            return self._medians[above] / (1 + HOPED_ROW * (above - rows))
        below = known[place - 1]
        if place == len(known):
            return self._medians[below] * (1 + HOPED_ROW * (rows - below))
        above = known[place]
        part = (rows - below) / (above - below)
        return self._medians[below] * (1 - part) + self._medians[above] * part


def grid_rows(num_rows: int) -> int:
    """The least number of the grid that is not below `num_rows`; the last one stands for all beyond."""
    return GRID[min(bisect_left(GRID, num_rows), len(GRID) - 1)]
