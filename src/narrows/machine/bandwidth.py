"""The memory bandwidth of this machine, measured: the ceiling every decode speed is compared with.

Gives GB/s (1e9 bytes) for reads from DRAM, by number of threads, and, for models smaller than the last-level
cache, from cache.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from narrows import _core
from narrows.machine.caches import Cache, read_caches

DRAM_BYTES = 256 << 20  # well past any last-level cache slice a small server shares
CACHE_BYTES_DEFAULT = 32 << 20  # assumed where sysfs does not tell


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Read bandwidth in GB/s with `threads` threads over `num_bytes` bytes read again and again."""

    gb_per_s: float
    num_bytes: int
    threads: int


def last_level_cache_bytes() -> int:
    """Bytes of the largest cache of CPU 0 as Linux reports it, or a default where it does not."""
    return max((cache.size_bytes for cache in read_caches([0])), default=CACHE_BYTES_DEFAULT)


def measure(threads: int, *, num_bytes: int = DRAM_BYTES, repeats: int = 3) -> Bandwidth:
    """Reads `num_bytes` `repeats` times with `threads` threads and keeps the best."""
    pool = _core.ThreadPool(threads)
    return Bandwidth(_core.read_bandwidth(num_bytes, repeats, pool), num_bytes, threads)


# ---- by number of threads

EVERY_COUNT_TO: Final = 8  # threads; of more only powers of two and all of them are measured
TIMES_CACHE: Final = 4  # bytes read, against the last-level caches that the threads can reach
MAX_BYTES: Final = 2 << 30
SEGMENT_BYTES: Final = 2 << 20  # of a thread: some 100 us, shorter than any time slice
VISIT_S: Final = 0.3
REPEATS: Final = 4  # passes over memory that was touched once: touching it takes as long


@dataclass(frozen=True, slots=True)
class DramCurve:
    """Read bandwidth with each of `threads` threads; `spread` of the repeats with the most of them."""

    threads: tuple[int, ...]
    gb_per_s: tuple[float, ...]
    spread: float  # (best - median) / best


def thread_counts(threads: int) -> tuple[int, ...]:
    """1, 2, 3 ... of few threads; powers of two and all of them of many."""
    if threads <= EVERY_COUNT_TO:
        return tuple(range(1, threads + 1))
    powers = (1 << i for i in range(threads.bit_length()))
    return (*(count for count in powers if count < threads), threads)


def bytes_past(cache: Cache, threads: int) -> int:
    """Bytes to read with `threads` threads, so that no cache they reach holds a good part of them."""
    reached = cache.size_bytes * min(threads, cache.count)
    return min(max(DRAM_BYTES, TIMES_CACHE * reached), MAX_BYTES)


class DramProbe:
    """Reads DRAM with one thread up to `threads`, in turns, so that all counts meet the same neighbours.

    Neighbours that share the memory come and go within seconds: several visits, with other measurements
    between them, see more of what the machine can do than one long look. The best of each count counts.
    """

    def __init__(self, threads: int, last_level: Cache) -> None:
        self._counts = thread_counts(threads)
        self._last_level = last_level
        self._pools = [_core.ThreadPool(count) for count in self._counts]
        self._rates: list[list[float]] = [[] for _ in self._counts]

    def visit(self) -> None:
        """A round over all counts, and more as long as there is time."""
        began_s = time.perf_counter()
        while not self._rates[0] or time.perf_counter() - began_s < VISIT_S:
            for pool, seen in zip(self._pools, self._rates, strict=True):
                num_bytes = bytes_past(self._last_level, pool.size)
                segments = max(1, num_bytes // pool.size // SEGMENT_BYTES)
                seen.append(_core.read_bandwidth(num_bytes, REPEATS, pool, segments=segments))

    def curve(self) -> DramCurve | None:
        """Of the visits so far; of one that was interrupted the counts that had their turn. None before."""
        done = [(count, seen) for count, seen in zip(self._counts, self._rates, strict=True) if seen]
        if not done:
            return None
        return DramCurve(
            tuple(count for count, _ in done), tuple(max(seen) for _, seen in done), spread(done[-1][1])
        )


def spread(rates: Sequence[float]) -> float:
    """How far the median lies below the best, as a share of the best."""
    best = max(rates)
    return (best - statistics.median(rates)) / best
