"""Whether CPUs share a core: told from rates, with processors that share one and with the real ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from narrows.machine import cores
from tests.machine.fakes import write

needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU only")


@pytest.mark.parametrize(("together", "expected"), [([0.5, 0.5], 1.0), ([1.0, 1.0], 2.0), ([0.9, 0.4], 1.3)])
def test_both_cpus_at_once_are_compared_with_each_alone(
    together: list[float], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pinned(cpus: Sequence[int], _rate: object) -> list[float]:
        return [1.0] if len(cpus) == 1 else together

    monkeypatch.setattr(cores, "_pinned", pinned)
    assert cores.pair_ratio(0, 1) == pytest.approx(expected)


def test_a_neighbour_who_takes_a_share_of_some_tries_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1000))

    def pinned(cpus: Sequence[int], _rate: object) -> list[float]:
        disturbed = next(calls) % 5 < 3
        return [0.3 if disturbed else 1.0] * len(cpus)

    monkeypatch.setattr(cores, "_pinned", pinned)
    assert cores.pair_ratio(0, 1) == pytest.approx(2.0)


@needs_two_cpus
def test_both_threads_work_at_the_same_time_each_on_its_cpu() -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    meeting = threading.Barrier(2)
    seen = set()

    def rate() -> float:
        meeting.wait(timeout=30)  # passes only if the other is at work, too
        seen.add(frozenset(os.sched_getaffinity(0)))
        return 1.0

    assert cores._pinned(cpus, rate) == [1.0, 1.0]
    assert seen == {frozenset({cpu}) for cpu in cpus}


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
