"""Whether CPUs share a core: told from rates, with processors that share one and with the real ones."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from narrows.machine import cores
from tests.machine.fakes import write


class FakeProcessor:
    """Its CPUs share one multiplier, or have one each; every thread works for some milliseconds."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        self._working = 0
        self._most = 0

    def rate(self) -> float:
        with self._lock:
            self._working += 1
            self._most = max(self._most, self._working)
        time.sleep(0.05)
        with self._lock:
            most = self._most
            self._working -= 1
            self._most = self._working and self._most
        return 1.0 / most if self._shared else 1.0


@pytest.mark.parametrize(("shared", "expected"), [(True, 1.0), (False, 2.0)])
def test_two_cpus_of_one_core_share_its_peak(shared: bool, expected: float) -> None:
    cpu = min(os.sched_getaffinity(0))
    assert cores.pair_ratio(cpu, cpu + 0, rate=FakeProcessor(shared=False).rate, tries=1) > 0
    own = sorted(os.sched_getaffinity(0))
    if len(own) < 2:
        pytest.skip("one CPU only")
    processor = FakeProcessor(shared=shared)
    assert cores.pair_ratio(own[0], own[1], rate=processor.rate, tries=2) == pytest.approx(expected)


@pytest.mark.parametrize(("ratio", "shared"), [(1.0, True), (1.3, True), (1.9, False), (2.0, False)])
def test_the_least_ratio_of_all_pairs_decides(ratio: float, shared: bool) -> None:
    ratios = {(0, 1): 2.0, (0, 2): ratio, (1, 2): 2.0}
    assert cores.shared_cores([0, 1, 2], ratio=lambda a, b: ratios[a, b]) == (shared, ratio, "")


def test_one_cpu_alone_has_nobody_to_share_with() -> None:
    assert cores.shared_cores([3]) == (None, None, "only one CPU may be used: no pair to compare")


def test_a_cpu_that_cannot_be_pinned_to_makes_it_unknown() -> None:
    shared, ratio, why = cores.shared_cores([100_000, 100_001])
    assert (shared, ratio) == (None, None)
    assert "could not be pinned" in why


def test_of_many_cpus_only_likely_siblings_are_tried(tmp_path: Path) -> None:
    cpus = list(range(16))
    assert cores.candidate_pairs(cpus, root=tmp_path) == [(0, 1), (0, 8)]
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    write(tmp_path, {topology.format(cpu): f"{cpu % 8},{cpu % 8 + 8}\n" for cpu in cpus})
    assert cores.candidate_pairs(cpus, root=tmp_path) == [(0, 8)]
    assert cores.candidate_pairs([0, 1, 2], root=tmp_path) == [(0, 1), (0, 2), (1, 2)]


def test_measuring_leaves_the_affinity_of_the_caller_alone() -> None:
    before = os.sched_getaffinity(0)
    _shared, ratio, _why = cores.shared_cores(sorted(before)[:2])
    assert os.sched_getaffinity(0) == before
    assert ratio is None or 0.2 < ratio < 4.0
