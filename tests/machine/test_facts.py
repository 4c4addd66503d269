"""Facts read from fake /proc and /sys trees, and the fingerprint that changes with each of them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from narrows import _core
from narrows.errors import InvalidConfig
from narrows.machine import caches, facts
from tests.machine.fakes import machine, write


def test_facts_are_what_the_files_say(tmp_path: Path) -> None:
    found = facts.read_facts(root=machine(tmp_path))
    assert found.cpu_model == "Imaginary 9000"
    assert found.cpu_flags == ("avx2", "fpu", "sse2")
    assert (found.online, found.quota, found.quota_source) == (2, 0.0, "none")
    assert (found.memory_bytes, found.swap_bytes) == (16384000 << 10, 1 << 20)
    assert found.affinity == tuple(sorted(os.sched_getaffinity(0)))
    assert found.isas[0] == _core.isa()
    assert found.gpus == ()


def test_a_machine_that_tells_nothing_is_still_a_machine(tmp_path: Path) -> None:
    found = facts.read_facts(root=tmp_path)
    assert (found.cpu_model, found.quota) == ("", 0.0)
    assert found.memory_bytes > 1 << 20, "the C library knows"
    assert found.online == len(found.affinity) >= 1
    assert caches.read_caches([0], root=tmp_path) == []


def test_quotas_of_both_cgroup_versions_are_read(tmp_path: Path) -> None:
    root = machine(tmp_path)
    write(root, {"sys/fs/cgroup/job/cpu.max": "150000 100000\n", "proc/self/cgroup": "0::/job\n"})
    found = facts.read_facts(root=root)
    assert (found.quota, found.quota_source) == (1.5, "cgroup v2")
    assert found.threads <= 2
    v1 = "sys/fs/cgroup/cpu,cpuacct/job"
    write(
        root,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/job\n",
            f"{v1}/cpu.cfs_quota_us": "50000\n",
            f"{v1}/cpu.cfs_period_us": "100000\n",
        },
    )
    found = facts.read_facts(root=root)
    assert (found.quota, found.quota_source, found.threads) == (0.5, "cgroup v1", 1)


def test_the_tightest_memory_limit_counts(tmp_path: Path) -> None:
    root = machine(tmp_path)
    write(root, {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"})
    assert facts.memory_limit(root) == 0
    write(root, {"sys/fs/cgroup/a/memory.max": "3000000\n", "sys/fs/cgroup/memory.max": "4000000\n"})
    assert facts.memory_limit(root) == 3000000
    assert facts.read_facts(root=root).memory_bytes == 3000000
    write(
        root,
        {
            "proc/self/cgroup": "7:cpu:/x\n4:memory:/job\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "2000000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert facts.memory_limit(root) == 2000000


def test_gpus_are_named_by_the_driver_or_counted_by_their_files(tmp_path: Path) -> None:
    root = machine(tmp_path)
    write(root, {"dev/nvidia0": "", "dev/nvidiactl": "", "dev/nvidia-uvm": ""})
    assert [file.name for file in facts.gpu_files(root)] == ["nvidia0"]
    assert facts.read_facts(root=root).gpus == ("nvidia0",)
    write(root, {"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t Imaginary GPU\nIRQ: 3\n"})
    assert facts.read_facts(root=root).gpus == ("Imaginary GPU",)
    write(root, {"dev/kfd": ""})
    assert [file.name for file in facts.gpu_files(root)] == ["nvidia0", "kfd"]


def test_the_fingerprint_is_stable_and_changes_with_every_fact(tmp_path: Path) -> None:
    one = facts.read_facts(root=machine(tmp_path))
    assert one.fingerprint == facts.read_facts(root=tmp_path).fingerprint
    seen = {one.fingerprint}
    for field in dataclasses.fields(facts.Facts):
        value = getattr(one, field.name)
        other = (
            (*value, 7)
            if isinstance(value, tuple)
            else value + (1 if isinstance(value, int | float) else "x")
        )
        seen.add(dataclasses.replace(one, **{field.name: other}).fingerprint)
    assert len(seen) == 1 + len(dataclasses.fields(facts.Facts))


def test_another_profile_version_is_another_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = facts.read_facts(root=machine(tmp_path))
    before = one.fingerprint
    monkeypatch.setattr(facts, "PROFILE_VERSION", facts.PROFILE_VERSION + 1)
    assert one.fingerprint != before


@pytest.mark.parametrize("threads", [0, -3, facts.MAX_THREADS + 1])
def test_impossible_numbers_of_threads_are_refused(threads: int) -> None:
    with pytest.raises(InvalidConfig, match="--threads"):
        facts.read_facts(threads)


def test_a_forced_instruction_set_comes_first_and_better_ones_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NARROWS_ISA", "generic")
    assert facts.usable_isas() == ("generic",)


def test_lists_of_cpus_are_read_as_the_kernel_writes_them() -> None:
    assert facts.cpu_list("0-2,8\n") == (0, 1, 2, 8)
    assert facts.cpu_list("\n") == ()
    with pytest.raises(ValueError, match="invalid"):
        facts.cpu_list("0-x")


def test_caches_are_counted_once_however_many_cpus_share_them(tmp_path: Path) -> None:
    root = machine(tmp_path)
    assert caches.read_caches([0, 1], root=root) == [
        caches.Cache(2, 512 << 10, 2),
        caches.Cache(3, 8 << 20, 1),
    ]
    assert caches.read_caches([1], root=root) == [caches.Cache(2, 512 << 10, 1), caches.Cache(3, 8 << 20, 1)]


@pytest.mark.parametrize(
    ("text", "num_bytes"), [("1024K", 1 << 20), ("32M", 32 << 20), ("", 0), ("K", 0), ("12", 0), ("-4K", 0)]
)
def test_sizes_of_sysfs(text: str, num_bytes: int) -> None:
    assert caches.size_bytes(text) == num_bytes
