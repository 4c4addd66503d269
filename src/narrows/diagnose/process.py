"""What the kernel says about this process: page faults, swap, CPU time taken away, before and after a run.

In: /proc and the cgroup, under a root that tests may choose. Out: Readings; the difference of two says what
happened in between. What cannot be read is None.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_STATS: Final = (  # (file, field, units of it in a second) of cgroup v2 and v1
    ("sys/fs/cgroup/cpu.stat", "throttled_usec", 1e6),
    ("sys/fs/cgroup/cpu/cpu.stat", "throttled_time", 1e9),
)


@dataclass(frozen=True, slots=True)
class Readings:
    """Counters since the process or the machine began, and the sizes of now."""

    at_s: float
    major_faults: int | None  # pages that had to come from disk
    swapped_bytes: int | None  # of this process, now
    resident_bytes: int | None
    available_bytes: int | None
    throttled_s: float | None  # stopped by the cgroup's quota
    steal_s: float | None  # of all CPUs, taken by the hypervisor


@dataclass(frozen=True, slots=True)
class Spell:
    """What happened between two readings."""

    seconds: float
    major_faults: int | None
    swapped_bytes: int | None
    available_bytes: int | None
    throttled_s: float | None
    steal_s: float | None


def read_process(root: Path = Path("/")) -> Readings:
    """Now."""
    throttled = None
    for name, key, unit in _STATS:
        found = _named(root / name, key)
        if found is not None:
            throttled = found / unit
            break
    return Readings(
        at_s=time.perf_counter(),
        major_faults=_major_faults(root / "proc/self/stat"),
        swapped_bytes=_kib(root / "proc/self/status", "VmSwap:"),
        resident_bytes=_kib(root / "proc/self/status", "VmRSS:"),
        available_bytes=_kib(root / "proc/meminfo", "MemAvailable:"),
        throttled_s=throttled,
        steal_s=_steal(root / "proc/stat"),
    )


def cpu_clock() -> tuple[float, float]:
    """(wall, this process's CPU) seconds, to be given to cpu_share later."""
    return time.perf_counter(), time.process_time()


def cpu_share(began: tuple[float, float], threads: int) -> float:
    """Of the CPU time that so many busy threads could have had since `began`, what this process got."""
    now = cpu_clock()
    return min(1.0, (now[1] - began[1]) / max((now[0] - began[0]) * threads, 1e-9))


def between(before: Readings, after: Readings) -> Spell:
    def gone(first: float | None, last: float | None) -> float | None:
        return None if first is None or last is None else max(0.0, last - first)

    faults = gone(before.major_faults, after.major_faults)
    return Spell(
        seconds=after.at_s - before.at_s,
        major_faults=None if faults is None else int(faults),
        swapped_bytes=after.swapped_bytes,
        available_bytes=after.available_bytes,
        throttled_s=gone(before.throttled_s, after.throttled_s),
        steal_s=gone(before.steal_s, after.steal_s),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # absent in this container, or not Linux: the reading stays unknown
        return ""


def _major_faults(path: Path) -> int | None:
    """majflt of proc(5): the tenth field after the name, which stands in brackets and may hold anything."""
    fields = _text(path).rpartition(")")[2].split()
    return int(fields[9]) if len(fields) > 9 and fields[9].isdigit() else None


def _named(path: Path, key: str) -> int | None:
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == key and words[1].isdigit():
            return int(words[1])
    return None


def _kib(path: Path, key: str) -> int | None:
    found = _named(path, key)
    return None if found is None else found * 1024


def _steal(path: Path) -> float | None:
    for line in _text(path).splitlines():
        words = line.split()
        if words[:1] == ["cpu"] and len(words) > 8 and words[8].isdigit():
            return int(words[8]) / os.sysconf("SC_CLK_TCK")
    return None
