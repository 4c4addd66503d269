"""How much memory this process may still take.

Out: bytes, by the kernel's estimate and the cgroup's limits, whichever is less. Knows no model.
"""

from __future__ import annotations

from pathlib import Path

from narrows.errors import OutOfMemory

# (limit, used, file pages that are dropped under pressure) of cgroup v2 and v1
_CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def available_bytes(root: Path = Path("/")) -> int:
    """MemAvailable, or what the cgroup leaves of its limit. `root` is for tests."""
    found = _system_bytes(root)
    for limit, used, droppable in _CGROUPS:
        base = root / "sys/fs/cgroup"
        top, current = _number(base / limit), _number(base / used)
        if top is None or current is None:
            continue
        found = min(
            found, max(0, top - current + _statistic((base / limit).with_name("memory.stat"), droppable))
        )
    return found


def require(num_bytes: int, what: str, remedy: str) -> None:
    """Raises OutOfMemory with both numbers where `num_bytes` are not to be had."""
    available = available_bytes()
    if num_bytes > available:
        raise OutOfMemory(
            f"{what} needs {shown_bytes(num_bytes)} but {shown_bytes(available)} are available; {remedy}"
        )


def shown_bytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1_000_000_000 else f"{num_bytes / 1e6:.2f} MB"


def _system_bytes(root: Path) -> int:
    found = _statistic(root / "proc/meminfo", "MemAvailable:")
    return found * 1024 if found else 1 << 62  # where the kernel does not tell, only the cgroup limits


def _statistic(path: Path, name: str) -> int:
    try:
        for line in path.read_text().splitlines():
            fields = line.split()
            if fields and fields[0] == name:
                return int(fields[1])
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None
