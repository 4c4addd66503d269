"""Ceilings measured next to the steps they are laid against, one measurement per number of threads and size.

In: threads, bytes. Out: (GB/s, GMAC/s) and the size of the last-level cache: a CeilingsSource.
"""

from __future__ import annotations

from typing import Final

from narrows.machine.bandwidth import DRAM_BYTES, last_level_cache_bytes
from narrows.machine.ceilings import LEAST_BYTES, CeilingsMeter

STEP: Final = 1.25  # sizes nearer to each other than this share a measurement


class MeasuredCeilings:
    """Keeps what it measured; `forget` before the next round."""

    def __init__(self, meter: CeilingsMeter | None = None) -> None:
        self._meter = meter or CeilingsMeter()
        self._known: dict[tuple[int, int], tuple[float, float]] = {}

    @property
    def cache_bytes(self) -> int:
        return last_level_cache_bytes()

    def at(self, threads: int, num_bytes: int) -> tuple[float, float]:
        size = _rounded(num_bytes)
        found = self._known.get((threads, size))
        if found is None:
            near = self._meter.measure(threads, size)
            found = self._known[threads, size] = (near.gb_per_s, near.gmac_per_s)
        return found

    def forget(self) -> None:
        self._known.clear()


def _rounded(num_bytes: int) -> int:
    """A power of STEP times LEAST_BYTES, so that near sizes are one."""
    size = float(LEAST_BYTES)
    while size * STEP**0.5 < min(num_bytes, DRAM_BYTES):
        size *= STEP
    return min(int(size), DRAM_BYTES)
