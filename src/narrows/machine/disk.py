"""How fast a folder's disk is read: from the device, and from the page cache.

A file of random bytes is written there, loses its name at once (nothing is left behind, whatever happens) and
is read by several threads with O_DIRECT; where that is refused, after the page cache was asked to drop it.
A virtual disk's host may still answer from memory of its own: that is what a model would meet, too.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from narrows.errors import InvalidConfig
from narrows.machine.facts import ROOT
from narrows.machine.profile import Disk

FILE_BYTES: Final = 128 << 20
BLOCK_BYTES: Final = 4 << 20  # a multiple of any sector
READERS: Final = 4  # requests in flight: one alone leaves a solid-state disk idle between them
CACHED_ROUNDS: Final = 4
MEMORY_FILE_SYSTEMS: Final = ("tmpfs", "ramfs")
DIRECT: Final = "O_DIRECT"
DROPPED: Final = "POSIX_FADV_DONTNEED"

ReadAt = Callable[[int, Sequence[memoryview], int], int]  # as os.preadv


@dataclass(frozen=True, slots=True)
class DiskBudget:
    """Seconds that writing the file and reading it may take: a slow disk gets a smaller file."""

    write_s: float = 2.0
    read_s: float = 1.5
    file_bytes: int = FILE_BYTES


def check_folder(folder: Path) -> Path:
    """`--disk` as an absolute path. Raises InvalidConfig where it is no folder."""
    if not folder.is_dir():
        raise InvalidConfig(f"--disk is {str(folder)!r}, which is no folder; name one on the disk to measure")
    return folder.resolve()


def measure_disk(
    folder: Path, *, budget: DiskBudget = DiskBudget(), read: ReadAt = os.preadv, root: Path = ROOT
) -> tuple[Disk, dict[str, str]]:
    """The disk and why a speed of it is unknown. Raises OSError where no file can be written there.

    `read` reads from the device: a test slows it down.
    """
    room = shutil.disk_usage(folder).free // 4
    if room < BLOCK_BYTES:
        raise OSError(f"only {4 * room / 1e6:.0f} MB are free in {folder}")
    descriptor, name = tempfile.mkstemp(prefix="narrows-disk-", dir=folder)
    try:
        os.unlink(name)
        num_bytes = _write(descriptor, min(budget.file_bytes, room), budget.write_s)
        unknown = {}
        kind = file_system(folder, root=root)
        cold: tuple[float | None, str]
        if kind in MEMORY_FILE_SYSTEMS:
            cold = None, ""
            unknown["disk, cold"] = f"{folder} lies in memory ({kind}); name a folder on a disk with --disk"
        else:
            cold = _cold(descriptor, num_bytes, budget.read_s, read)
            if cold[0] is None:
                unknown["disk, cold"] = f"{folder}: {cold[1]}"
        cached = max(_read_all(descriptor, num_bytes, budget.read_s, os.preadv) for _ in range(CACHED_ROUNDS))
    finally:
        os.close(descriptor)
    return Disk(str(folder), cold[0], cached, cold[1] if cold[0] is not None else ""), unknown


def file_system(folder: Path, *, root: Path = ROOT) -> str:
    """The type of the file system that holds `folder`; "" where the kernel does not tell."""
    device = os.stat(folder).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = (root / "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        mount, _, kind = line.partition(" - ")
        if mount.split()[2:3] == [wanted] and kind:
            return kind.split()[0]
    return ""


def _write(descriptor: int, num_bytes: int, budget_s: float) -> int:
    """Random bytes, so that nothing on the way can shorten them; on the device when it returns. How many."""
    began_s = time.perf_counter()
    written = 0
    while written < num_bytes - num_bytes % BLOCK_BYTES:
        block = os.urandom(BLOCK_BYTES)
        while block:
            block = block[os.write(descriptor, block) :]
        os.fdatasync(descriptor)
        written += BLOCK_BYTES
        if time.perf_counter() - began_s > budget_s:
            break
    return written


def _cold(descriptor: int, num_bytes: int, budget_s: float, read: ReadAt) -> tuple[float | None, str]:
    """(GB/s from the device, how) or (None, why not)."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        direct = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECT)
        try:
            return _read_all(direct, num_bytes, budget_s, read), DIRECT
        finally:
            os.close(direct)
    except OSError as error:
        refused = error.strerror
    if not _is_dropped(descriptor):
        return None, f"O_DIRECT is refused ({refused}) and the page cache keeps the file"
    return _read_all(descriptor, num_bytes, budget_s, read), DROPPED


def _is_dropped(descriptor: int) -> bool:
    """Whether the page cache has let the file go: a read that may not wait then finds nothing."""
    try:
        return os.preadv(descriptor, [bytearray(mmap.PAGESIZE)], 0, os.RWF_NOWAIT) == 0
    except BlockingIOError:
        return True
    except OSError:  # this file system cannot tell
        return False


def _read_all(descriptor: int, num_bytes: int, budget_s: float, read: ReadAt) -> float:
    """GB/s of READERS threads that read the file block by block in turns, until the time is over."""
    counts = [0] * READERS
    failed: list[OSError] = []
    began_s = time.perf_counter()

    def work(reader: int) -> None:
        buffer = memoryview(mmap.mmap(-1, BLOCK_BYTES))  # O_DIRECT wants whole pages
        try:
            for at in range(reader * BLOCK_BYTES, num_bytes, READERS * BLOCK_BYTES):
                counts[reader] += read(descriptor, [buffer], at)
                if time.perf_counter() - began_s > budget_s:
                    return
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(reader,)) for reader in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(counts) / (time.perf_counter() - began_s) / 1e9
