"""Packed weights on disk: written once, read at every later start, verified before use.

A file is: magic, length and SHA-256 of a JSON header, the header, then the packed bytes from the next page
on. The header holds the key (what was packed, and how) and a checksum of the bytes. A file that is stale or
damaged is reported with the reason, never trusted. Writing goes to a temporary file that is renamed when it
is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

from narrows import _core
from narrows.kernels.formats import round_up
from narrows.kernels.packing import LAYOUT_VERSION, Bytes

MAGIC: Final = b"NARROWS\x01"
HEADER_START: Final = len(MAGIC) + 8 + 32  # magic, length of the header, SHA-256 of the header
PAGE_BYTES: Final = 4096
SUFFIX: Final = ".packed"
ABANDONED_S: Final = 3600.0  # a temporary file this old was left by a process that died


class _Unusable(Exception):
    """Why a cache file cannot be used; never leaves this module."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """Where the packed weights of one model in one recipe live. `key` says what exactly they must hold."""

    path: Path
    key: str
    num_bytes: int

    def header_bytes(self, checksum: int) -> bytes:
        fields = {
            "layout_version": LAYOUT_VERSION,
            "key": self.key,
            "num_bytes": self.num_bytes,
            # fixed width: the header's length is known before the checksum is
            "checksum": f"{checksum:016x}",
        }
        return json.dumps(fields, sort_keys=True).encode()

    @property
    def data_start(self) -> int:
        return round_up(HEADER_START + len(self.header_bytes(0)), PAGE_BYTES)


def cache_folder() -> Path:
    """$NARROWS_CACHE_DIR, or narrows under $XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get("NARROWS_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "narrows"


def cache_entry(folder: Path, *, slot: str, key: str, num_bytes: int) -> CacheEntry:
    """`slot` names the file: one per model folder and recipe; a changed model replaces its old file."""
    name = hashlib.sha256(slot.encode()).hexdigest()[:24]
    return CacheEntry(folder / f"{name}{SUFFIX}", key, num_bytes)


def map_cache(entry: CacheEntry, pool: _core.ThreadPool) -> tuple[_core.WeightFile | None, str]:
    """The verified packed bytes, mapped; or None and why ("" where there is no file)."""
    try:
        return _verified(entry, pool), ""
    except FileNotFoundError:
        return None, ""
    except _Unusable as error:
        return None, str(error)


def _verified(entry: CacheEntry, pool: _core.ThreadPool) -> _core.WeightFile:
    try:
        with entry.path.open("rb") as file:
            promised = _check_header(entry, file)
            weights = _core.WeightFile(file.fileno(), offset=entry.data_start, num_bytes=entry.num_bytes)
        found = _core.checksum(weights.data, pool)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _Unusable(f"unreadable ({error})") from error
    if promised != f"{found:016x}":
        raise _Unusable("damaged (its checksum does not match)")
    return weights


def _check_header(entry: CacheEntry, file: BinaryIO) -> object:
    """The checksum that the file promises, where it is the file wanted and has its size."""
    header = _read_header(file)
    if header.get("key") != entry.key or header.get("layout_version") != LAYOUT_VERSION:
        raise _Unusable("stale (the model, the recipe or the layout has changed)")
    size = os.fstat(file.fileno()).st_size
    if header.get("num_bytes") != entry.num_bytes or size != entry.data_start + entry.num_bytes:
        raise _Unusable("damaged (it has the wrong size)")
    return header.get("checksum")


def huge_memory(num_bytes: int) -> Bytes:
    """Zeroed memory in huge pages where the system gives them; page-aligned."""
    # Private: shared anonymous memory, Python's default, gets no huge pages.
    memory = mmap.mmap(-1, max(num_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # only advice: a kernel without huge pages refuses it
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8, count=num_bytes)


def _read_header(file: BinaryIO) -> dict[str, object]:
    front = file.read(HEADER_START)
    if front[: len(MAGIC)] != MAGIC or len(front) < HEADER_START:
        raise _Unusable("damaged (it is not a packed model)")
    length = int.from_bytes(front[len(MAGIC) : len(MAGIC) + 8], "little")
    raw = file.read(length) if length < PAGE_BYTES * 16 else b""
    if hashlib.sha256(raw).digest() != front[len(MAGIC) + 8 :]:
        raise _Unusable("damaged (its header does not match)")
    header: dict[str, object] = json.loads(raw)
    return header


class CacheWriter:
    """A temporary file of the final size, mapped for writing; `commit` names it, `close` drops it."""

    def __init__(self, entry: CacheEntry) -> None:
        """Raises OSError where the folder cannot be written or the disk is full."""
        self._entry = entry
        entry.path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(entry.path)
        total = entry.data_start + entry.num_bytes
        descriptor, name = tempfile.mkstemp(prefix=entry.path.stem, suffix=".tmp", dir=entry.path.parent)
        self._temporary: Path | None = Path(name)
        self._descriptor = descriptor
        try:
            # Taken now, because a full disk would otherwise kill the process when a mapped page is written.
            os.posix_fallocate(descriptor, 0, total)
            self._mapped = mmap.mmap(descriptor, total)
        except BaseException:
            self.close()
            raise
        self.data: Bytes = np.frombuffer(self._mapped, dtype=np.uint8, offset=entry.data_start)

    def commit(self, pool: _core.ThreadPool) -> _core.WeightFile:
        """Writes the header, makes all durable, names the file and returns its bytes, mapped."""
        assert self._temporary is not None
        raw = self._entry.header_bytes(_core.checksum(self.data, pool))
        digest = hashlib.sha256(raw).digest()
        front = MAGIC + len(raw).to_bytes(8, "little") + digest + raw
        self._mapped[: len(front)] = front
        self._mapped.flush()
        os.fsync(self._descriptor)
        entry = self._entry
        weights = _core.WeightFile(self._descriptor, offset=entry.data_start, num_bytes=entry.num_bytes)
        self._temporary.replace(entry.path)  # only what can also be mapped gets its name
        self._temporary = None
        return weights

    def close(self) -> None:
        """Closes the file; removes it where it was not committed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            self._temporary = None


@contextlib.contextmanager
def cache_writer(entry: CacheEntry) -> Iterator[CacheWriter]:
    """A writer that leaves no temporary file behind."""
    writer = CacheWriter(entry)
    try:
        yield writer
    finally:
        writer.close()


def _remove_abandoned(path: Path) -> None:
    """Temporary files of this entry that a killed process left behind."""
    for left in path.parent.glob(f"{path.stem}*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                left.unlink()
