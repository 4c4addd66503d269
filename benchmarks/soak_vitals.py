"""What a process holds, as Linux counts it, and what a server says of itself at /metrics.

In: a process id, a server's URL. Out: Vitals and the metrics' values. Knows nothing of load or trends.
"""

from __future__ import annotations

import http.client
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_METRIC = re.compile(r"^(narrows_\w+?)(?:\{([^}]*)\})? (\S+)$")


@dataclass(frozen=True, slots=True)
class Vitals:
    """Megabytes (1e6 bytes) resident, of no file and of mapped files; what else may leak; CPU time."""

    anonymous_mb: float
    file_mb: float
    num_fds: int
    num_threads: int
    cpu_s: float


def memory_mb(rollup: str) -> tuple[float, float]:
    """(anonymous, file-backed) of the text of smaps_rollup. Shared memory counts as a file there."""
    found = {
        name: int(size) * 1024 / 1e6
        for name, size in re.findall(r"^(Rss|Anonymous):\s+(\d+) kB$", rollup, re.MULTILINE)
    }
    return found["Anonymous"], found["Rss"] - found["Anonymous"]


def cpu_seconds(stat: str, ticks_per_s: int) -> float:
    """User and system time of the text of /proc/PID/stat; the command's name may hold spaces and brackets."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / ticks_per_s


def read_vitals(pid: int) -> Vitals:
    """Raises FileNotFoundError or ProcessLookupError where the process is gone."""
    process = Path("/proc") / str(pid)
    anonymous_mb, file_mb = memory_mb((process / "smaps_rollup").read_text())
    return Vitals(
        anonymous_mb=anonymous_mb,
        file_mb=file_mb,
        num_fds=len(list((process / "fd").iterdir())),
        num_threads=len(list((process / "task").iterdir())),
        cpu_s=cpu_seconds((process / "stat").read_text(), os.sysconf("SC_CLK_TCK")),
    )


def parse_metrics(text: str) -> dict[str, float]:
    """Sums over the labels of each metric: the kinds of an end, the routes of an answer."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        match = _METRIC.match(line)
        if match and 'le="' not in (match[2] or ""):
            values[match[1]] = values.get(match[1], 0.0) + float(match[3])
    return values


def read_metrics(url: str, *, timeout_s: float = 30.0) -> dict[str, float]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", "/metrics")
        return parse_metrics(connection.getresponse().read().decode())
    finally:
        connection.close()
