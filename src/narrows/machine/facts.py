"""What this machine says about itself, read and not measured, and the fingerprint over it.

In: /proc, /sys and the limits the core found. Out: Facts; their fingerprint changes with the CPU, its flags,
the CPUs and the memory granted, the GPUs, the kernel and our core, and with it a stored profile is stale.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from narrows import __version__, _core
from narrows.errors import InvalidConfig
from narrows.machine.profile import PROFILE_VERSION

ROOT: Final = Path("/")
MAX_THREADS: Final = 1024
FINGERPRINT_CHARS: Final = 24
QUOTA_SOURCES: Final = {0: "none", 1: "cgroup v1", 2: "cgroup v2"}


@dataclass(frozen=True, slots=True)
class Facts:
    cpu_model: str  # "": the kernel does not tell
    cpu_flags: tuple[str, ...]
    online: int
    affinity: tuple[int, ...]
    physical: int
    quota: float  # CPUs; 0: none
    quota_source: str
    memory_bytes: int
    swap_bytes: int
    gpus: tuple[str, ...]
    isas: tuple[str, ...]  # the one in use first
    kernel: str
    core: str
    threads: int

    @property
    def fingerprint(self) -> str:
        text = json.dumps([PROFILE_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_CHARS]


def read_facts(threads: int | None = None, *, root: Path = ROOT) -> Facts:
    """Raises InvalidConfig for an impossible number of threads. `root` stands before /proc, /sys and /dev."""
    limits = _core.cpu_limits("" if root == ROOT else str(root))
    threads = limits.threads if threads is None else threads
    if not 1 <= threads <= MAX_THREADS:
        raise InvalidConfig(f"--threads is {threads}; it must be 1 to {MAX_THREADS}")
    info = _pairs(root / "proc/cpuinfo")
    memory = _pairs(root / "proc/meminfo")
    total = _kibibytes(memory.get("MemTotal", "")) or os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    limit = memory_limit(root)
    return Facts(
        cpu_model=info.get("model name") or info.get("Model") or info.get("CPU part") or "",
        cpu_flags=tuple(sorted((info.get("flags") or info.get("Features") or "").split())),
        online=_online(root) or len(limits.affinity),
        affinity=tuple(limits.affinity),
        physical=limits.physical,
        quota=limits.quota_cpus,
        quota_source=QUOTA_SOURCES[limits.quota_version],
        memory_bytes=min(total, limit) if limit else total,
        swap_bytes=_kibibytes(memory.get("SwapTotal", "")),
        gpus=_gpu_names(root),
        isas=usable_isas(),
        kernel=platform.release(),
        core=f"{__version__} layout {_core.LAYOUT_VERSION}",
        threads=threads,
    )


def usable_isas() -> tuple[str, ...]:
    """What the core would use (NARROWS_ISA may have chosen), then the lesser ones."""
    names = _core.available_isas()  # the least first
    return tuple(reversed(names[: names.index(_core.isa()) + 1]))


def cpu_list(text: str) -> tuple[int, ...]:
    """The CPUs of a list as the kernel writes it: "0-3,8". Raises ValueError."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def memory_limit(root: Path = ROOT) -> int:
    """Bytes that the tightest cgroup above this process grants; 0: no limit."""
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        folder = Path(group.strip("/"))
        for step in (folder, *folder.parents):
            text = _text(mount / step / name).strip()
            if text.isdigit():  # v2 says "max" for none, v1 a number beyond any memory
                limits.append(int(text))
    return min(limits, default=0)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _pairs(path: Path) -> dict[str, str]:
    """The "name : value" lines of a file; of several with one name the first counts."""
    found: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found


def _kibibytes(text: str) -> int:
    number = text.removesuffix("kB").strip()
    return int(number) << 10 if number.isdigit() else 0


def _online(root: Path) -> int:
    try:
        return len(cpu_list(_text(root / "sys/devices/system/cpu/online")))
    except ValueError:
        return 0


def _gpu_names(root: Path) -> tuple[str, ...]:
    """As the NVIDIA driver names them; without the driver's files only the device files are counted."""
    files = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    names = [_pairs(file).get("Model", "NVIDIA GPU") for file in files]
    return tuple(names or [file.name for file in gpu_files(root)])


def gpu_files(root: Path = ROOT) -> list[Path]:
    """Device files of GPUs that torch may see: of NVIDIA, or AMD's for computing."""
    amd = root / "dev/kfd"
    return sorted((root / "dev").glob("nvidia[0-9]*")) + ([amd] if amd.exists() else [])
