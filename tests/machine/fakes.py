"""Machines made of files: what the machine package reads of /proc, /sys and /dev, below a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from narrows.machine.profile import (
    PROFILE_VERSION,
    CacheLevel,
    Cores,
    Disk,
    Disturbance,
    Gpu,
    Link,
    MachineProfile,
    Peak,
)

CPUINFO = """processor\t: 0
model name\t: Imaginary 9000
flags\t\t: fpu sse2 avx2

processor\t: 1
model name\t: Imaginary 9000
flags\t\t: fpu sse2 avx2
"""
MEMINFO = "MemTotal:       16384000 kB\nMemAvailable:    8000000 kB\nSwapTotal:       1024 kB\n"
STAT = "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 50 0 50 400 0 0 0 0 0 0\ncpu1 50 0 50 400 0 0 0 0 0 0\n"


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def machine(root: Path) -> Path:
    """A machine of two CPUs with a cache each and one that they share."""
    tree = {
        "proc/cpuinfo": CPUINFO,
        "proc/meminfo": MEMINFO,
        "proc/stat": STAT,
        "proc/self/cgroup": "0::/\n",
        "sys/devices/system/cpu/online": "0-1\n",
    }
    for cpu in (0, 1):
        base = f"sys/devices/system/cpu/cpu{cpu}/cache"
        found = [("1", "Data", "32K", str(cpu)), ("1", "Instruction", "32K", str(cpu))]
        found += [("2", "Unified", "512K", str(cpu)), ("3", "Unified", "8M", "0-1")]
        for index, (level, kind, size, shared) in enumerate(found):
            entry = {"level": level, "type": kind, "size": size, "shared_cpu_list": shared}
            tree.update({f"{base}/index{index}/{name}": f"{value}\n" for name, value in entry.items()})
    return write(root, tree)


def profile(**changes: object) -> MachineProfile:
    fields: dict[str, object] = {
        "version": PROFILE_VERSION,
        "fingerprint": "f" * 24,
        "measured_at": "2026-11-21T19:00:00+00:00",
        "seconds": 9.5,
        "memory_bytes": 16 << 30,
        "swap_bytes": 0,
        "cores": Cores("Imaginary 9000", ("avx2", "generic"), 2, 2, 1.5, "cgroup v2", 2, False, 1.98, 2),
        "caches": (CacheLevel(2, 512 << 10, 200.0), CacheLevel(3, 8 << 20, 100.0)),
        "dram_gb_per_s": (20.0, 30.0),
        "dram_threads": (1, 2),
        "peaks": (Peak("avx2", 300.0, 100.0), Peak("generic", 50.0, 25.0)),
        "disk": Disk("/models", 1.0, 4.0, "O_DIRECT"),
        "links": (Link("loopback", 12e-6, 5.0),),
        "gpus": (Gpu("Imaginary GPU", 24 << 30, 900.0, {"fp32": 30.0, "bf16": 120.0}),),
        "disturbance": Disturbance(0.01, 0.0, 0.05, 0.02),
        "unknown": {"throttling": "no cpu.stat"},
    }
    return MachineProfile(**(fields | changes))  # type: ignore[arg-type]
