"""The second and third level caches: their sizes from sysfs, their read bandwidth by measurement.

Half a cache is read, so that what else lives in it does not push the rest out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from narrows import _core
from narrows.machine.facts import ROOT
from narrows.machine.profile import CacheLevel

REPEATS: Final = 20
ROUNDS: Final = 5
LEAST_BYTES: Final = 4 << 20  # of a thread in one repeat: waking it must not count
UNITS: Final = {"K": 10, "M": 20, "G": 30}


@dataclass(frozen=True, slots=True)
class Cache:
    level: int
    size_bytes: int  # of one
    count: int  # how many of them lie behind our CPUs


def read_caches(cpus: Sequence[int], *, root: Path = ROOT) -> list[Cache]:
    """Data caches from the second level up behind `cpus`, the lowest level first; [] where sysfs is mute."""
    found: dict[int, dict[str, int]] = {}  # level -> CPUs that share one -> its bytes
    for cpu in cpus:
        for index in sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")):
            level, size = _word(index / "level"), size_bytes(_word(index / "size"))
            if level.isdigit() and int(level) >= 2 and size and _word(index / "type") != "Instruction":
                shared_by = _word(index / "shared_cpu_list") or str(cpu)
                found.setdefault(int(level), {})[shared_by] = size
    return [Cache(level, min(all_.values()), len(all_)) for level, all_ in sorted(found.items())]


def size_bytes(text: str) -> int:
    """ "1024K" -> bytes; 0 where it is no size."""
    number, unit = text[:-1], text[-1:]
    return int(number) << UNITS[unit] if number.isdigit() and unit in UNITS else 0


def measure_caches(caches: Sequence[Cache], threads: int) -> tuple[CacheLevel, ...]:
    """Read bandwidth of `threads` threads over half of as many caches as they can sit on."""
    pool = _core.ThreadPool(threads)
    levels = []
    for cache in caches:
        num_bytes = min(cache.count, threads) * cache.size_bytes // 2
        passes = max(1, LEAST_BYTES * threads // num_bytes)
        rates = [_core.read_bandwidth(num_bytes, REPEATS, pool, passes) for _ in range(ROUNDS)]
        levels.append(CacheLevel(cache.level, cache.size_bytes, max(rates)))
    return tuple(levels)


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
