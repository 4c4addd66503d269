"""Steal, throttling and other processes out of the kernel's counters; missing counters are unknown."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from narrows.machine import disturbance
from narrows.machine.disturbance import Look
from tests.machine.fakes import STAT, machine, write

HERTZ = os.sysconf("SC_CLK_TCK")
START = Look(at_s=10.0, own_s=5.0, total_s=100.0, idle_s=80.0, steal_s=1.0, throttled_s=2.0)


def test_shares_follow_from_the_counters() -> None:
    # Of 20 s of two CPUs 4 were idle and 2 stolen; we used 11 of the remaining 14.
    after = Look(at_s=20.0, own_s=16.0, total_s=120.0, idle_s=84.0, steal_s=3.0, throttled_s=4.5)
    seen, unknown = disturbance.between(START, after, spread=0.1)
    assert unknown == {}
    assert seen.steal_share == pytest.approx(2 / 16)
    assert seen.throttled_share == pytest.approx(0.25)
    assert seen.others_share == pytest.approx(3 / 20)
    assert seen.spread == 0.1


def test_counters_that_step_back_or_stand_still_are_no_time() -> None:
    seen, _ = disturbance.between(START, replace(START, steal_s=0.9, throttled_s=1.9), spread=0.0)
    assert (seen.steal_share, seen.throttled_share, seen.others_share) == (0.0, 0.0, 0.0)


def test_missing_counters_are_unknown_and_say_so() -> None:
    blind = Look(at_s=20.0, own_s=6.0, total_s=None, idle_s=None, steal_s=None, throttled_s=None)
    seen, unknown = disturbance.between(START, blind, spread=0.0)
    assert (seen.steal_share, seen.throttled_share, seen.others_share) == (None, None, None)
    assert set(unknown) == {"steal", "throttling"}


def test_only_our_cpus_are_counted(tmp_path: Path) -> None:
    root = machine(tmp_path)
    write(root, {"proc/stat": STAT.replace("cpu1 50 0 50 400 0 0 0 0", "cpu1 70 0 50 400 10 0 0 30")})
    both, one = (disturbance.look(cpus, "", root=root) for cpus in ([0, 1], [0]))
    assert one.total_s == pytest.approx(500 / HERTZ)
    assert both.total_s == pytest.approx((500 + 560) / HERTZ)
    assert both.steal_s == pytest.approx(30 / HERTZ)
    assert both.idle_s == pytest.approx(810 / HERTZ)
    assert both.throttled_s == 0.0


@pytest.mark.parametrize("text", ["", "cpu0 1 2 3\n", "cpu0 a b c d e f g h\n", "cpu7 1 2 3 4 5 6 7 8\n"])
def test_a_stat_file_without_our_cpu_is_unknown(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"proc/stat": text})
    assert disturbance.look([0], "", root=tmp_path).total_s is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("nr_periods 5\nnr_throttled 2\nthrottled_usec 1500000\n", 1.5),
        ("nr_periods 5\nnr_throttled 2\nthrottled_time 250000000\n", 0.25),
        ("nr_periods 5\n", None),
        ("throttled_usec soon\n", None),
    ],
)
def test_both_cgroup_versions_tell_how_long_they_throttled(
    tmp_path: Path, text: str, seconds: float | None
) -> None:
    write(tmp_path, {"cpu.stat": text})
    assert disturbance.throttled_s(tmp_path) == seconds
    assert disturbance.throttled_s(tmp_path / "gone") is None
