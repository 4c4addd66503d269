"""What this machine was measured to do: the nouns that `narrows machine` prints and a diagnosis divides by.

Plain values and their JSON; measuring them is the work of the modules beside this one. A value that could
not be measured is None, and `unknown` says why: nothing is guessed silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

PROFILE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Cores:
    """Where threads may run."""

    model: str  # as the kernel names the CPU
    isas: tuple[str, ...]  # instruction sets our core has kernels for, best first
    online: int  # logical CPUs of the machine
    affinity: int  # logical CPUs this process may use
    quota: float | None  # CPUs a cgroup grants, None: no limit
    quota_source: str  # "cgroup v2", "cgroup v1", "none"
    physical: int  # cores behind the affinity, as the kernel tells
    shared_cores: bool | None  # two of our CPUs share one core's peak, by measurement
    shared_cores_ratio: float | None  # throughput of two CPUs together over one alone (2: own cores)
    threads: int  # what Narrows would use


@dataclass(frozen=True, slots=True)
class CacheLevel:
    level: int
    size_bytes: int
    gb_per_s: float | None  # read bandwidth, all threads, measured over half its bytes


@dataclass(frozen=True, slots=True)
class Peak:
    """Multiply-adds per second (1e9) in registers, all threads."""

    isa: str
    int8_gmac_per_s: float
    fp32_gmac_per_s: float


@dataclass(frozen=True, slots=True)
class Disk:
    path: str
    gb_per_s: float | None  # from the device, page cache passed by
    cached_gb_per_s: float | None
    method: str = ""  # how the page cache was passed by: "O_DIRECT" or "POSIX_FADV_DONTNEED"


@dataclass(frozen=True, slots=True)
class Link:
    """alpha-beta model: a message of n bytes takes latency_s + n / (gb_per_s * 1e9)."""

    peer: str  # "loopback" or host:port
    latency_s: float
    gb_per_s: float


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int
    gb_per_s: float
    tflop_per_s: Mapping[str, float]  # by dtype: fp32, tf32, bf16, fp16, int8


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What other work took away while measuring."""

    steal_share: float | None  # of the time our CPUs wanted to run, taken by the hypervisor
    throttled_share: float | None  # of wall time, stopped by the cgroup quota
    spread: float  # (best - median) / best over the repeats of the DRAM measurement
    others_share: float | None = None  # of the time of our CPUs, used by other processes


@dataclass(frozen=True, slots=True)
class MachineProfile:
    version: int
    fingerprint: str  # of what the hardware and its limits are: a changed one makes a stored profile stale
    measured_at: str  # ISO 8601, UTC
    seconds: float  # the measuring took
    memory_bytes: int  # that this process may use: the machine's, or a cgroup's limit where that is less
    swap_bytes: int
    cores: Cores
    caches: tuple[CacheLevel, ...]
    dram_gb_per_s: tuple[float, ...]  # reads, by threads: [0] is one thread, [i] is dram_threads[i]
    peaks: tuple[Peak, ...]  # one an ISA, best first
    disk: Disk | None
    links: tuple[Link, ...]
    gpus: tuple[Gpu, ...]
    disturbance: Disturbance
    unknown: Mapping[str, str] = field(default_factory=dict)  # what could not be measured: why
    dram_threads: tuple[int, ...] = ()  # of each dram_gb_per_s; (): 1, 2, 3 ... Not every count of many

    def dram_with(self, threads: int) -> tuple[int, float] | None:
        """(threads, GB/s) of the most threads measured that are not more than `threads`; None: none were.

        Nothing is interpolated: of 12 threads the answer may be what 8 did, and says so.
        """
        counts = self.dram_threads or tuple(range(1, len(self.dram_gb_per_s) + 1))
        fitting = [pair for pair in zip(counts, self.dram_gb_per_s, strict=True) if pair[0] <= threads]
        return max(fitting, default=None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> MachineProfile:
        """The inverse of to_json. Raises InvalidConfig naming a field that is missing or impossible."""
        from narrows.machine.profile_json import profile_from_json

        return profile_from_json(data)
