"""All that is measured about this machine, part by part. Knows no store and no command line.

In: facts and the folder whose disk is meant. Out: a MachineProfile. A part that fails is left out, and
`unknown` says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from narrows import _core
from narrows.machine import bandwidth, caches, cores, disk, disturbance, gpus, links, peaks
from narrows.machine.facts import ROOT, Facts
from narrows.machine.profile import PROFILE_VERSION, CacheLevel, Cores, Disk, Gpu, Link, MachineProfile, Peak

VISITS_S: Final = 12.0  # after this DRAM is visited no more: a busy machine makes everything slow
READABLE_SHARE: Final = 4  # of our memory a quarter is enough to read DRAM, and not too much to take

Progress = Callable[[str, int, int], None]  # what is measured now, parts done, parts in all


class SurveyInterrupted(KeyboardInterrupt):
    """Ctrl-C in the midst of it; what was measured until then is kept here."""

    def __init__(self, profile: MachineProfile) -> None:
        super().__init__()
        self.profile = profile


@dataclass(slots=True)
class Survey:
    """What was found so far; each part fills its own fields."""

    facts: Facts
    folder: Path  # on the disk that is meant
    gpu: bool = False
    root: Path = ROOT
    shared: bool | None = None
    shared_ratio: float | None = None
    caches: tuple[CacheLevel, ...] = ()
    dram: bandwidth.DramCurve | None = None
    peaks: tuple[Peak, ...] = ()
    disk: Disk | None = None
    links: tuple[Link, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    unknown: dict[str, str] = field(default_factory=dict)
    _probe: bandwidth.DramProbe | None = None
    _began_s: float = 0.0

    def run(self, progress: Progress) -> MachineProfile:
        """Raises SurveyInterrupted for Ctrl-C."""
        self._began_s = time.perf_counter()
        parts = {
            "DRAM": self._find_dram,
            "shared cores": self._find_shared_cores,
            "peaks": self._find_peaks,
            "caches": self._find_caches,
            "disk": self._find_disk,
            "loopback": self._find_loopback,
            "GPUs": self._find_gpus,
        }
        before = self._look()
        left = list(parts)
        try:
            for name, part in parts.items():
                progress(name, len(parts) - len(left), len(parts))
                self._attempt(name, part)
                left.remove(name)
                self._attempt("DRAM", self._visit_dram)
        except KeyboardInterrupt:
            self.unknown.update(dict.fromkeys(left, "interrupted"))
            raise SurveyInterrupted(self._profile(before)) from None
        progress("done", len(parts), len(parts))
        return self._profile(before)

    def _profile(self, before: disturbance.Look) -> MachineProfile:
        self.dram = self._probe.curve() if self._probe else None
        disturbed, unseen = disturbance.between(
            before, self._look(), spread=self.dram.spread if self.dram else 0.0
        )
        if not self.facts.cpu_model:
            self.unknown["CPU model"] = "the kernel does not name it"
        return MachineProfile(
            version=PROFILE_VERSION,
            fingerprint=self.facts.fingerprint,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=time.perf_counter() - self._began_s,
            memory_bytes=self.facts.memory_bytes,
            swap_bytes=self.facts.swap_bytes,
            cores=self._cores(),
            caches=self.caches,
            dram_gb_per_s=self.dram.gb_per_s if self.dram else (),
            dram_threads=self.dram.threads if self.dram else (),
            peaks=self.peaks,
            disk=self.disk,
            links=self.links,
            gpus=self.gpus,
            disturbance=disturbed,
            unknown={**self.unknown, **unseen},
        )

    def _attempt(self, name: str, part: Callable[[], None]) -> None:
        try:
            part()
        except (OSError, MemoryError) as error:
            self.unknown[name] = str(error) or type(error).__name__

    def _visit_dram(self) -> None:
        if self._probe is not None and time.perf_counter() - self._began_s < VISITS_S:
            self._probe.visit()

    def _look(self) -> disturbance.Look:
        quota_folder = _core.cpu_limits(_core_root(self.root)).quota_folder
        return disturbance.look(self.facts.affinity, quota_folder, root=self.root)

    def _cores(self) -> Cores:
        facts = self.facts
        return Cores(
            model=facts.cpu_model or "unknown CPU",
            isas=facts.isas,
            online=facts.online,
            affinity=len(facts.affinity),
            quota=facts.quota or None,
            quota_source=facts.quota_source,
            physical=facts.physical,
            shared_cores=self.shared,
            shared_cores_ratio=self.shared_ratio,
            threads=facts.threads,
        )

    def _find_shared_cores(self) -> None:
        self.shared, self.shared_ratio, why = cores.shared_cores(self.facts.affinity, root=self.root)
        if why:
            self.unknown["shared cores"] = why

    def _find_peaks(self) -> None:
        self.peaks = peaks.measure_peaks(self.facts.isas, self.facts.threads)

    def _find_caches(self) -> None:
        found = caches.read_caches(self.facts.affinity, root=self.root)
        self.caches = caches.measure_caches(found, self.facts.threads)
        if not found:
            self.unknown["caches"] = (
                "the kernel does not tell the sizes of this CPU's caches; DRAM was read as if each thread "
                f"had {bandwidth.CACHE_BYTES_DEFAULT >> 20} MiB"
            )

    def _find_dram(self) -> None:
        last = caches.Cache(3, bandwidth.CACHE_BYTES_DEFAULT, self.facts.threads)
        for found in caches.read_caches(self.facts.affinity, root=self.root):
            last = found
        needed = bandwidth.bytes_past(last, self.facts.threads)
        if needed > self.facts.memory_bytes // READABLE_SHARE:
            self.unknown["DRAM"] = (
                f"reading past the caches takes {needed / 1e6:.0f} MB, more than a quarter of the memory "
                f"this process may use ({self.facts.memory_bytes / 1e6:.0f} MB)"
            )
            return
        self._probe = bandwidth.DramProbe(self.facts.threads, last)
        self._probe.visit()

    def _find_disk(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.disk, missing = disk.measure_disk(self.folder, root=self.root)
        self.unknown.update(missing)

    def _find_loopback(self) -> None:
        self.links = (links.measure_loopback(),)

    def _find_gpus(self) -> None:
        self.gpus, missing = gpus.measure_gpus(asked=self.gpu, root=self.root)
        self.unknown.update(missing)


def _core_root(root: Path) -> str:
    return "" if root == ROOT else str(root)
