"""The two ceilings of a step, measured near in time to it, as a shared machine's bandwidth moves.

In: threads and the bytes a step reads. Out: GB/s over as many bytes and int8 multiply-adds per second.
A stored profile (profile.py) says what the machine was measured to do once; this says what it does now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from narrows import _core
from narrows.machine.bandwidth import DRAM_BYTES

LEAST_BYTES: Final = 1 << 20
PEAK_S: Final = 0.005
PEAK_TRIES: Final = 10  # a neighbour on one of the cores lowers a try, and none raises one
CACHED_REPEATS: Final = 20  # of reads that a cache serves; they are short
DRAM_REPEATS: Final = 3


@dataclass(frozen=True, slots=True)
class NearCeilings:
    """What `threads` threads did just now."""

    gb_per_s: float
    gmac_per_s: float
    threads: int


class CeilingsMeter:
    """Measures, and keeps the thread pools to measure with."""

    def __init__(self) -> None:
        self._pools: dict[int, _core.ThreadPool] = {}

    def measure(self, threads: int, num_bytes: int) -> NearCeilings:
        """Reads `num_bytes`, at least a MiB and at most DRAM_BYTES, again and again; then multiplies."""
        pool = self._pools.get(threads)
        if pool is None:
            pool = self._pools[threads] = _core.ThreadPool(threads)
        size = min(max(num_bytes, LEAST_BYTES), DRAM_BYTES)
        repeats = DRAM_REPEATS if size == DRAM_BYTES else CACHED_REPEATS
        peak = max(_core.int8_peak(PEAK_S, pool) for _ in range(PEAK_TRIES))
        return NearCeilings(_core.read_bandwidth(size, repeats, pool), peak, threads)


def usable_threads() -> int:
    """min(affinity, cgroup quota, physical cores): what Narrows uses where nothing is said."""
    return _core.effective_cpus()


def instruction_set() -> str:
    return _core.isa()
