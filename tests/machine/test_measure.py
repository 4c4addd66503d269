"""When a machine is measured, when the store is enough, and what a failing part leaves."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from narrows.errors import InvalidConfig
from narrows.machine import bandwidth, disk, disturbance, links, measure, survey
from narrows.machine.caches import Cache
from narrows.machine.facts import Facts, read_facts
from narrows.machine.measure import MachineOptions, measure_machine
from narrows.machine.profile import Disk, Link, MachineProfile
from narrows.machine.survey import Survey, SurveyInterrupted
from tests.machine.fakes import CPUINFO, machine, profile, write


@dataclass
class Counter:
    """Stands for the survey: how often it ran, and where the disk was."""

    runs: int = 0
    folders: tuple[Path, ...] = ()

    def __call__(self, facts: Facts, folder: Path, gpu: bool, root: Path) -> Counter:
        self.runs += 1
        self.folders += (folder,)
        self._fingerprint = facts.fingerprint
        return self

    def run(self, _progress: object) -> MachineProfile:
        where = Disk(str(self.folders[-1]), 1.0, 2.0, "O_DIRECT")
        return profile(fingerprint=self._fingerprint, seconds=float(self.runs), disk=where, gpus=())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("NARROWS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def counter(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()
    monkeypatch.setattr(measure, "Survey", counter)
    return counter


def test_a_machine_is_measured_once(counter: Counter, cache: Path) -> None:
    first, second = measure_machine(), measure_machine()
    assert first == second
    assert (counter.runs, counter.folders) == (1, (cache,))
    assert measure_machine(MachineOptions(fresh=True)).seconds == 2.0
    assert measure_machine().seconds == 2.0


def test_a_changed_machine_is_measured_anew_and_the_old_one_is_remembered(
    counter: Counter, tmp_path: Path
) -> None:
    options = MachineOptions(root=machine(tmp_path / "root"))
    measure_machine(options)
    write(options.root, {"proc/cpuinfo": CPUINFO.replace("9000", "9001")})
    measure_machine(options)
    assert counter.runs == 2
    write(options.root, {"proc/cpuinfo": CPUINFO})
    assert measure_machine(options).seconds == 1.0
    measure_machine(replace(options, threads=1))
    assert counter.runs == 3


def test_a_damaged_profile_is_measured_anew_and_said(
    counter: Counter, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measure_machine()
    (file,) = cache.iterdir()
    file.write_text(file.read_text().replace("30.0", "31.0"))
    assert measure_machine().seconds == 2.0
    assert "damaged" in caplog.text
    assert measure_machine().seconds == 2.0


def test_a_folder_that_cannot_be_written_costs_only_the_store(
    counter: Counter, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file where a folder should be")
    assert measure_machine().seconds == 1.0
    assert "not stored" in caplog.text


def test_another_disk_is_measured_alone(
    counter: Counter, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measure_disk(folder: Path, *, root: Path) -> tuple[Disk, dict[str, str]]:
        asked.append(folder)
        return Disk(str(folder), None, 3.0), {"disk, cold": "because"}

    monkeypatch.setattr(disk, "measure_disk", measure_disk)
    measure_machine()
    there = measure_machine(MachineOptions(disk=tmp_path))
    assert there.disk == Disk(str(tmp_path), None, 3.0)
    assert there.unknown == {**profile().unknown, "disk, cold": "because"}
    assert measure_machine(MachineOptions(disk=tmp_path)) == there
    back = measure_machine()
    assert back.disk is not None
    assert back.disk.path == str(cache)
    assert (counter.runs, asked) == (1, [tmp_path, cache])
    with pytest.raises(InvalidConfig, match="no folder"):
        measure_machine(MachineOptions(disk=tmp_path / "missing"))


def test_peers_are_measured_at_every_call_and_kept(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter((1.0, 2.0, 3.0))
    monkeypatch.setattr(links, "measure_link", lambda address: Link(str(address), 1e-4, next(speeds)))
    for _ in range(2):
        measure_machine(MachineOptions(peers=("a:1",)))
    known = measure_machine(MachineOptions(peers=("b:2",))).links
    assert [(link.peer, link.gb_per_s) for link in known] == [("loopback", 5.0), ("a:1", 2.0), ("b:2", 3.0)]
    assert measure_machine().links == known
    assert counter.runs == 1


def test_a_peer_that_cannot_be_is_refused_before_anything_is_measured(counter: Counter) -> None:
    for peers in (("nonsense",), ("127.0.0.1:1",)):
        with pytest.raises(InvalidConfig):
            measure_machine(MachineOptions(peers=peers))
    assert counter.runs == 0


def test_a_gpu_that_is_asked_for_is_not_taken_from_a_store_without_one(counter: Counter) -> None:
    measure_machine()
    measure_machine(MachineOptions(gpu=True))
    assert counter.runs == 2


# ---- the survey itself


def facts_of(root: Path) -> Facts:
    return read_facts(1, root=root)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "DRAM_BYTES", 1 << 20)
    monkeypatch.setattr(bandwidth, "VISIT_S", 0.01)
    monkeypatch.setattr(links, "SIZES", (1, 1024, 4096))
    monkeypatch.setattr(
        survey.disk, "measure_disk", lambda folder, root: (Disk(str(folder), 1.0, 2.0, "O_DIRECT"), {})
    )


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_part_that_fails_is_unknown_and_the_others_are_measured(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey.disk, "measure_disk", failing(OSError("the disk is on fire")))
    monkeypatch.setattr(survey.links, "measure_loopback", failing(OSError("no loopback")))
    monkeypatch.setattr(survey.peaks, "measure_peaks", failing(MemoryError()))
    shown = []
    found = Survey(facts_of(machine(tmp_path)), tmp_path / "disk", root=tmp_path).run(
        lambda part, done, total: shown.append((part, done, total))
    )
    assert found.unknown["disk"] == "the disk is on fire"
    assert found.unknown["loopback"] == "no loopback"
    assert found.unknown["peaks"] == "MemoryError"
    assert (found.disk, found.links, found.peaks) == (None, (), ())
    assert len(found.dram_gb_per_s) == len(found.dram_threads) == 1
    assert [cache.level for cache in found.caches] == [2, 3]
    assert MachineProfile.from_json(found.to_json()) == found
    assert shown[-1] == ("done", len(shown) - 1, len(shown) - 1)


def test_an_interrupted_survey_keeps_what_it_has(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey.disk, "measure_disk", failing(KeyboardInterrupt()))
    with pytest.raises(SurveyInterrupted) as stopped:
        Survey(facts_of(machine(tmp_path)), tmp_path, root=tmp_path).run(measure.silent)
    found = stopped.value.profile
    assert found.peaks
    assert found.dram_gb_per_s
    left = {name for name, why in found.unknown.items() if why == "interrupted"}
    assert left == {"disk", "loopback", "GPUs"}


def test_an_interrupted_visit_counts_as_far_as_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter((20.0, 30.0))

    def read(_bytes: int, _repeats: int, _pool: object, *, segments: int) -> float:
        for rate in rates:
            return rate
        raise KeyboardInterrupt

    monkeypatch.setattr(bandwidth._core, "read_bandwidth", read)
    probe = bandwidth.DramProbe(3, Cache(3, 1 << 20, 1))
    assert probe.curve() is None
    with pytest.raises(KeyboardInterrupt):
        probe.visit()
    assert probe.curve() == bandwidth.DramCurve((1, 2), (20.0, 30.0), 0.0)


def test_dram_is_not_read_where_that_takes_too_much_of_the_memory(quick: None, tmp_path: Path) -> None:
    facts = replace(facts_of(machine(tmp_path)), memory_bytes=64 << 20)
    found = Survey(facts, tmp_path, root=tmp_path).run(measure.silent)
    assert found.dram_gb_per_s == ()
    assert "quarter of the memory" in found.unknown["DRAM"]


def test_a_machine_without_sysfs_says_what_it_does_not_know(quick: None, tmp_path: Path) -> None:
    facts = replace(facts_of(tmp_path), memory_bytes=16 << 30)
    found = Survey(facts, tmp_path, root=tmp_path).run(measure.silent)
    assert found.caches == ()
    assert {"caches", "CPU model", "steal"} <= set(found.unknown)
    assert found.dram_gb_per_s, "read past caches of a size assumed"


def test_threads_are_counted_one_by_one_or_in_powers_of_two() -> None:
    assert bandwidth.thread_counts(1) == (1,)
    assert bandwidth.thread_counts(6) == (1, 2, 3, 4, 5, 6)
    assert bandwidth.thread_counts(16) == (1, 2, 4, 8, 16)
    assert bandwidth.thread_counts(48) == (1, 2, 4, 8, 16, 32, 48)


def test_reading_goes_past_every_cache_that_the_threads_reach() -> None:
    eight = Cache(3, 96 << 20, 8)
    assert bandwidth.bytes_past(eight, 1) == 4 * (96 << 20)
    assert bandwidth.bytes_past(eight, 4) == 16 * (96 << 20)
    assert bandwidth.bytes_past(eight, 64) == bandwidth.MAX_BYTES
    assert bandwidth.bytes_past(Cache(3, 1 << 20, 1), 64) == bandwidth.DRAM_BYTES


def test_the_spread_is_from_the_best_to_the_median() -> None:
    assert bandwidth.spread([10.0, 40.0, 30.0]) == pytest.approx(0.25)
    assert bandwidth.spread([40.0]) == 0.0


def test_a_busy_neighbour_is_seen() -> None:
    cpus = tuple(facts_of(Path("/")).affinity)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            before = disturbance.look(cpus, "")
            deadline_s = time.monotonic() + 30
            share: float | None = 0.0
            while share is not None and share < 0.02 and time.monotonic() < deadline_s:
                time.sleep(0.3)
                share = disturbance.between(before, disturbance.look(cpus, ""), spread=0.0)[0].others_share
        finally:
            neighbour.kill()
    assert share is None or share >= 0.02


def test_nothing_is_logged_where_all_is_well(counter: Counter, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        measure_machine()
        measure_machine()
    assert caplog.text == ""
