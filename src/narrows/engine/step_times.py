"""How long a step of m rows takes on this machine now, T(m), learned from the steps themselves.

In: (rows, seconds) of steps without prompts. Out: estimates for any number of rows. Reads no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from statistics import median

# Rows that are told apart. Between them a step's time hardly changes, and a time for each number of rows
# would be measured too seldom.
GRID: tuple[int, ...] = (*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 256, 512)
NUM_KEPT = 5  # last times of a number of rows; their median forgets a step that the machine interrupted
STALE_STEPS = 1024  # a time that has not been seen for so long is measured again when it matters
# What rows are taken to cost that were never measured: less than they do, so that they are tried, and the
# first trial tells. Of the last time known, per row more, where only one is; else of the known rows' cost.
HOPED_ROW = 0.02
HOPED_SLOPE = 0.75


class StepTimes:
    """Medians of the last times per number of rows; between two known ones, the line between them."""

    def __init__(self) -> None:
        self.num_steps = 0
        self.most_rows = 0  # of any step so far
        self._times: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self._seen: dict[int, int] = {}

    def add(self, num_rows: int, seconds: float) -> None:
        """Called after every step of decode rows: takes as little time as it can."""
        rows = num_rows if num_rows <= 8 else grid_rows(num_rows)
        self.num_steps += 1
        times = self._times.get(rows)
        self.most_rows = max(self.most_rows, rows)
        if times is None or self.num_steps - self._seen[rows] > STALE_STEPS:
            times = self._times[rows] = deque(maxlen=NUM_KEPT)
        times.append(seconds)
        self._medians.pop(rows, None)
        self._seen[rows] = self.num_steps

    def age(self, num_rows: int) -> int:
        """Steps since one of so many rows; beyond STALE_STEPS where there was none."""
        seen = self._seen.get(grid_rows(num_rows))
        return STALE_STEPS + 1 if seen is None else self.num_steps - seen

    def estimates(self, of_rows: Sequence[int]) -> list[float]:
        """Seconds of steps of so many rows each, rising; empty before any step was seen."""
        known = sorted(rows for rows, seen in self._seen.items() if self.num_steps - seen <= STALE_STEPS)
        if not known:
            return []
        seconds = [self._median(rows) for rows in known]
        found = []
        place = 0
        for rows in map(grid_rows, of_rows):
            while place < len(known) and known[place] < rows:
                place += 1
            found.append(_between(known, seconds, place, rows))
        return found

    def _median(self, rows: int) -> float:
        found = self._medians.get(rows)
        if found is None:
            found = self._medians[rows] = median(self._times[rows])
        return found


def _between(known: list[int], seconds: list[float], place: int, rows: int) -> float:
    """At `rows`, where known[place] is the first that is not below; outside of what is known, with hope."""
    if place < len(known) and known[place] == rows:
        return seconds[place]
    if place == 0:
        return seconds[0] / (1 + HOPED_ROW * (known[0] - rows))
    if place == len(known):
        slope = HOPED_ROW * seconds[-1]
        if place > 1:
            slope = max(slope, HOPED_SLOPE * (seconds[-1] - seconds[0]) / (known[-1] - known[0]))
        return seconds[-1] + slope * (rows - known[-1])
    part = (rows - known[place - 1]) / (known[place] - known[place - 1])
    return seconds[place - 1] * (1 - part) + seconds[place] * part


def grid_rows(num_rows: int) -> int:
    """The least number of the grid that is not below `num_rows`; the last one stands for all beyond."""
    place = bisect_left(GRID, num_rows)
    return GRID[min(place, len(GRID) - 1)]
