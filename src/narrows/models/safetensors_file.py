"""One safetensors file, mapped: where each tensor lies.

In: a path. Out: SafetensorsFile with the header's entries and the mapped bytes. The `safetensors` library
judges whether the file is sound; the header is read a second time here only because the library hands out
copies.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from narrows.errors import InvalidModel

SETTLED_NS: Final = 2_000_000_000  # file systems tick every 10 ms at worst, FAT every 2 s


@dataclass(frozen=True, slots=True)
class TensorEntry:
    dtype: str  # F32, BF16, I64, ... as the format names them
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the file
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    path: Path
    entries: dict[str, TensorEntry]
    data: mmap.mmap
    fingerprint: str  # of header, size and time of change


def open_safetensors(path: Path) -> SafetensorsFile:
    """Maps a file; InvalidModel where it is missing, truncated or its header is damaged."""
    try:
        # First, as the library calls a file missing that may not be read.
        with path.open("rb") as file:
            status = path.stat()
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with safe_open(str(path), framework="numpy") as judged:
            num_tensors = len(list(judged.keys()))
    except FileNotFoundError as error:
        raise InvalidModel(f"{path} is missing; download the model again") from error
    except PermissionError as error:
        raise InvalidModel(
            f"{path} may not be read by this user ({error}); change its permissions"
        ) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidModel(f"{path} is truncated or damaged ({error}); download it again") from error
    length = int.from_bytes(data[:8], "little")
    raw = data[8 : 8 + length]
    entries = _entries(path, json.loads(raw), 8 + length, len(data))
    if len(entries) != num_tensors:
        raise InvalidModel(f"{path}: its header names a tensor twice; download it again")
    return SafetensorsFile(path, entries, data, _fingerprint(raw, data, status))


def _fingerprint(header: bytes, data: mmap.mmap, status: os.stat_result) -> str:
    """Header, size and time of change; for a file changed this very moment its bytes too.

    The clock of a file system ticks slowly, so such a file may change again unseen. Once it has aged it has
    another fingerprint, and whatever was cached under this one is made anew.
    """
    parts = [hashlib.sha256(header).hexdigest(), str(status.st_size), str(status.st_mtime_ns)]
    if time.time_ns() - status.st_mtime_ns < SETTLED_NS:
        parts.append(hashlib.sha256(data).hexdigest())
    return " ".join(parts)


def _entries(
    path: Path, header: dict[str, dict[str, object]], start: int, size: int
) -> dict[str, TensorEntry]:
    entries = {}
    for name, value in header.items():
        if name == "__metadata__":
            continue
        begin, end = (start + int(offset) for offset in value["data_offsets"])  # type: ignore[attr-defined]
        shape = tuple(int(n) for n in value["shape"])  # type: ignore[attr-defined]
        if not start <= begin <= end <= size:
            raise InvalidModel(f"{path}: {name} lies outside the file; download it again")
        entries[name] = TensorEntry(str(value["dtype"]), shape, begin, end)
    return entries
