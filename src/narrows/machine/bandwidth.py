"""The memory bandwidth of this machine, measured: the ceiling every decode speed is compared with.

Gives GB/s (1e9 bytes) for reads from DRAM and, for models smaller than the last-level cache, from cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from narrows import _core

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
    sizes = []
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = size.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
        elif text.endswith("M") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 20)
    return max(sizes, default=CACHE_BYTES_DEFAULT)


def measure(threads: int, *, num_bytes: int = DRAM_BYTES, repeats: int = 3) -> Bandwidth:
    """Reads `num_bytes` `repeats` times with `threads` threads and keeps the best."""
    pool = _core.ThreadPool(threads)
    return Bandwidth(_core.read_bandwidth(num_bytes, repeats, pool), num_bytes, threads)
