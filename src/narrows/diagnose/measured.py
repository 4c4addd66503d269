"""Ceilings measured next to the steps they are laid against, one measurement per number of threads and size.

In: threads, bytes. Out: (GB/s, GMAC/s) and the size of the last-level cache: a CeilingsSource.
"""

from __future__ import annotations

from typing import Final

from narrows.machine.bandwidth import DRAM_BYTES, last_level_cache_bytes
from narrows.machine.ceilings import LEAST_BYTES, CeilingsMeter
from narrows.machine.profile import MachineProfile

STEP: Final = 1.25  # sizes nearer to each other than this share a measurement


class MeasuredCeilings:
    """Keeps what it measured. Of the peak the highest counts, also of the stored profile: it is a matter of
    the clock, and a neighbour on the cores only ever lowers it.
    """

    def __init__(self, profile: MachineProfile | None = None, meter: CeilingsMeter | None = None) -> None:
        self._meter = meter or CeilingsMeter()
        self._profile = profile
        self._bandwidths: dict[tuple[int, int], float] = {}
        self._peaks: dict[int, float] = {}

    @property
    def cache_bytes(self) -> int:
        return last_level_cache_bytes()

    def at(self, threads: int, num_bytes: int) -> tuple[float, float]:
        size = _rounded(num_bytes)
        found = self._bandwidths.get((threads, size))
        if found is None:
            near = self._meter.measure(threads, size)
            found = self._bandwidths[threads, size] = near.gb_per_s
            self._peaks[threads] = max(
                near.gmac_per_s, self._peaks.get(threads, 0.0), self._stored_peak(threads)
            )
        return found, self._peaks[threads]

    def _stored_peak(self, threads: int) -> float:
        if self._profile is None or not self._profile.peaks:
            return 0.0
        part = min(1.0, threads / max(1, self._profile.cores.threads))
        return self._profile.peaks[0].int8_gmac_per_s * part


def _rounded(num_bytes: int) -> int:
    """A power of STEP times LEAST_BYTES, so that near sizes are one."""
    size = float(LEAST_BYTES)
    while size * STEP**0.5 < min(num_bytes, DRAM_BYTES):
        size *= STEP
    return min(int(size), DRAM_BYTES)
