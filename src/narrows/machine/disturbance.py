"""What other work took away while we measured: stolen time, throttling, other processes.

In: two looks at the kernel's counters. Out: shares between them, None where a counter is missing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from narrows.machine.facts import ROOT
from narrows.machine.profile import Disturbance

# /proc/stat, proc(5): user nice system idle iowait irq softirq steal; guest time is in user already.
IDLE: Final = (3, 4)
STEAL: Final = 7
FIELDS: Final = 8


@dataclass(frozen=True, slots=True)
class Look:
    """Counters at one moment, in seconds."""

    at_s: float
    own_s: float  # CPU time of this process
    total_s: float | None  # of our CPUs, with idle time; None: the kernel does not tell
    idle_s: float | None
    steal_s: float | None
    throttled_s: float | None  # 0 where no quota can throttle


def look(cpus: Sequence[int], quota_folder: str, *, root: Path = ROOT) -> Look:
    """`quota_folder`: of the cgroup that sets our quota, "" for none."""
    times = os.times()
    ticks = _ticks(cpus, root)
    hertz = os.sysconf("SC_CLK_TCK")
    return Look(
        at_s=time.perf_counter(),
        own_s=times.user + times.system,
        total_s=None if ticks is None else sum(ticks) / hertz,
        idle_s=None if ticks is None else sum(ticks[i] for i in IDLE) / hertz,
        steal_s=None if ticks is None else ticks[STEAL] / hertz,
        throttled_s=throttled_s(Path(quota_folder)) if quota_folder else 0.0,
    )


def between(before: Look, after: Look, *, spread: float) -> tuple[Disturbance, dict[str, str]]:
    """What happened from one look to the next, and what could not be seen, and why."""
    steal = others = throttled = None
    unknown = {}
    if None in (before.total_s, after.total_s):
        unknown["steal"] = "/proc/stat has no times of our CPUs"
    else:
        total, idle, stolen = (
            _grown(getattr(before, name), getattr(after, name)) for name in ("total_s", "idle_s", "steal_s")
        )
        wanted = total - idle
        steal = stolen / wanted if wanted > 0 else 0.0
        own = after.own_s - before.own_s
        others = min(1.0, max(0.0, wanted - stolen - own) / total) if total > 0 else 0.0
    if before.throttled_s is None or after.throttled_s is None:
        unknown["throttling"] = "the cgroup that sets our quota has no readable cpu.stat"
    else:
        wall = after.at_s - before.at_s
        throttled = min(1.0, _grown(before.throttled_s, after.throttled_s) / wall) if wall > 0 else 0.0
    return Disturbance(steal, throttled, spread, others), unknown


def throttled_s(folder: Path) -> float | None:
    """Seconds that the group's threads were stopped: cgroup v2 counts microseconds, v1 nanoseconds."""
    try:
        lines = (folder / "cpu.stat").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(" ")
        unit = {"throttled_usec": 1e-6, "throttled_time": 1e-9}.get(name)
        if unit is not None and value.strip().isdigit():
            return int(value) * unit
    return None


def _ticks(cpus: Sequence[int], root: Path) -> list[int] | None:
    """The counters of `cpus` added up, as long as proc(5) has them; None where one CPU is missing."""
    try:
        lines = (root / "proc/stat").read_text().splitlines()
    except OSError:
        return None
    wanted = {f"cpu{cpu}" for cpu in cpus}
    total, found = [0] * FIELDS, 0
    for line in lines:
        name, *values = line.split()[: FIELDS + 1] or [""]
        if name in wanted and len(values) == FIELDS and all(value.isdigit() for value in values):
            total = [a + int(b) for a, b in zip(total, values, strict=True)]
            found += 1
    return total if found == len(wanted) and found else None


def _grown(before: float | None, after: float | None) -> float:
    """Counters of a kernel may step back by a tick; time does not."""
    return max(0.0, (after or 0.0) - (before or 0.0))
