"""The disk: measured speeds follow a disk that is made slow; what cannot be measured is said."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from narrows.errors import InvalidConfig
from narrows.machine import disk
from narrows.machine.disk import DiskBudget, measure_disk
from tests.machine.fakes import write

QUICK = DiskBudget(write_s=1.0, read_s=1.0, file_bytes=16 << 20)


class SlowDisk:
    """Gives `bytes_per_s` to all its readers together."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._head = threading.Lock()

    def read(self, descriptor: int, buffers: Sequence[memoryview], at: int) -> int:
        with self._head:
            count = os.preadv(descriptor, buffers, at)
            time.sleep(count / self._bytes_per_s)
        return count


def test_a_measured_disk_has_two_speeds_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    found, unknown = measure_disk(tmp_path, budget=QUICK)
    assert found.path == str(tmp_path)
    assert found.cached_gb_per_s is not None
    assert found.cached_gb_per_s > 0
    assert (found.gb_per_s is None) == ("disk, cold" in unknown) == (found.method == "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mb_per_s", [200.0, 25.0])
def test_a_slow_disk_is_measured_as_slow(tmp_path: Path, mb_per_s: float, on_a_disk: None) -> None:
    rates = []
    while len(rates) < 5 and not any(
        rate > mb_per_s / 10 for rate in rates
    ):  # it may stand still for a while
        found, _ = measure_disk(tmp_path, budget=QUICK, read=SlowDisk(mb_per_s * 1e6).read)
        assert found.gb_per_s is not None
        rates.append(found.gb_per_s * 1e3)
    assert mb_per_s / 10 < max(rates) < mb_per_s * 1.05


def test_a_disk_that_is_slow_to_write_gets_a_smaller_file(tmp_path: Path, on_a_disk: None) -> None:
    sizes = []

    def read(descriptor: int, buffers: Sequence[memoryview], at: int) -> int:
        sizes.append(os.fstat(descriptor).st_size)
        return os.preadv(descriptor, buffers, at)

    measure_disk(tmp_path, budget=DiskBudget(write_s=0.0, read_s=1.0, file_bytes=64 << 20), read=read)
    assert set(sizes) == {disk.BLOCK_BYTES}


@pytest.mark.parametrize("dropped", [True, False])
def test_where_direct_reads_are_refused_the_page_cache_must_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropped: bool, on_a_disk: None
) -> None:
    opened = os.open

    def refuse_direct(path: str, flags: int, *more: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, *more)

    monkeypatch.setattr(disk.os, "open", refuse_direct)
    monkeypatch.setattr(disk, "_is_dropped", lambda _descriptor: dropped)
    found, unknown = measure_disk(tmp_path, budget=QUICK)
    assert (found.gb_per_s is not None) == dropped
    assert found.method == (disk.DROPPED if dropped else "")
    assert ("O_DIRECT is refused (Invalid argument)" in unknown.get("disk, cold", "")) != dropped


def test_a_folder_in_memory_has_no_cold_speed(tmp_path: Path) -> None:
    device = os.stat(tmp_path).st_dev
    line = f"30 1 {os.major(device)}:{os.minor(device)} / /x rw,relatime shared:1 - tmpfs tmpfs rw\n"
    root = write(tmp_path / "root", {"proc/self/mountinfo": "1 2 0:99 / / rw - ext4 a rw\n" + line})
    assert disk.file_system(tmp_path, root=root) == "tmpfs"
    found, unknown = measure_disk(tmp_path, budget=QUICK, root=root)
    assert (found.gb_per_s, found.method) == (None, "")
    assert "lies in memory (tmpfs)" in unknown["disk, cold"]
    assert disk.file_system(tmp_path, root=tmp_path / "nothing") == ""


def test_the_page_cache_is_asked_whether_it_has_let_go(tmp_path: Path, on_a_disk: None) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    with path.open("rb") as file:
        file.read()
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except OSError:
            pytest.skip("this file system cannot tell what is cached")
        assert not disk._is_dropped(file.fileno())


def test_a_disk_that_fails_says_so(tmp_path: Path, on_a_disk: None) -> None:
    def broken(_descriptor: int, _buffers: Sequence[memoryview], _at: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        measure_disk(tmp_path, budget=QUICK, read=broken)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_and_a_folder_that_is_none_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, tmp_path / "missing"):
        with pytest.raises(InvalidConfig, match="no folder"):
            disk.check_folder(folder)
    usage = disk.shutil.disk_usage(tmp_path)._replace(free=8 << 20)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(OSError, match="MB are free"):
        measure_disk(tmp_path, budget=QUICK)


@pytest.fixture
def on_a_disk(tmp_path: Path) -> None:
    if disk.file_system(tmp_path) in disk.MEMORY_FILE_SYSTEMS:
        pytest.skip("temporary files lie in memory here")
