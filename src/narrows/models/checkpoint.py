"""Safetensors as memory-mapped numpy views: one file or many shards with an index.

In: a model folder. Out: Checkpoint, a mapping from tensor name to shape, dtype and a read-only view; bf16
appears as uint16 bits. Damage is found when the folder is opened. A pickle is never loaded. Knows no model
family.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from narrows.errors import InvalidModel
from narrows.models.config import read_json
from narrows.models.safetensors_file import SafetensorsFile, TensorEntry, open_safetensors
from narrows.models.spec import TensorSlice

INDEX_NAME: Final = "model.safetensors.index.json"
SINGLE_NAME: Final = "model.safetensors"
PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FLOAT_DTYPES: Final[dict[str, type[np.generic]]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
Weights = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]


class Checkpoint:
    """The tensors of a model folder. Views stay valid as long as they are referenced."""

    def __init__(self, files: tuple[SafetensorsFile, ...], owner: dict[str, SafetensorsFile]) -> None:
        self._files = files
        self._owner = owner

    def __contains__(self, name: object, /) -> bool:
        return name in self._owner

    def __iter__(self) -> Iterator[str]:
        return iter(self._owner)

    def __len__(self) -> int:
        return len(self._owner)

    @property
    def fingerprint(self) -> str:
        """Changes when any file's header, size or time of change does."""
        joined = "\n".join(f"{file.path.name} {file.fingerprint}" for file in self._files)
        return hashlib.sha256(joined.encode()).hexdigest()

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(len(file.data) for file in self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def dtype(self, name: str) -> str:
        """The dtype as the format names it: F32, F16, BF16."""
        return self._entry(name).dtype

    def tensor(self, name: str) -> Weights:
        """A read-only view of the mapped bytes."""
        entry = self._entry(name)
        kind = FLOAT_DTYPES.get(entry.dtype)
        if kind is None:
            raise InvalidModel(
                f"{self._owner[name].path}: {name} has dtype {entry.dtype}; "
                f"weights must be {', '.join(FLOAT_DTYPES)}"
            )
        count = (entry.end - entry.begin) // np.dtype(kind).itemsize
        view = np.frombuffer(self._owner[name].data, dtype=kind, count=count, offset=entry.begin)
        return view.reshape(entry.shape)

    def floats(self, name: str) -> Floats:
        """A float32 copy."""
        return widen(self.tensor(name))

    def equal(self, first: str, second: str) -> bool:
        """Same shape and same bytes."""
        one, two = self._entry(first), self._entry(second)
        if (one.dtype, one.shape) != (two.dtype, two.shape):
            return False
        return bool(np.array_equal(self._bits(first), self._bits(second)))

    def take(self, part: TensorSlice) -> Weights:
        """The rows a slice describes, C-contiguous; a view of the file where it can be one."""
        array = self.tensor(part.name)
        if part.transpose:
            array = array.T
        if part.rows is not None:
            array = array[np.asarray(part.rows)]
        return np.require(array[part.row_begin : part.row_end], requirements=["C", "A"])

    def release(self, name: str) -> None:
        """Lets the system drop the pages of a tensor that has been read: packing needs little memory."""
        entry, data = self._entry(name), self._owner[name].data
        begin = -(-entry.begin // mmap.PAGESIZE) * mmap.PAGESIZE
        end = entry.end // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            data.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def _entry(self, name: str) -> TensorEntry:
        owner = self._owner.get(name)
        if owner is None:
            folder = self._files[0].path.parent
            raise InvalidModel(
                f"{folder}: tensor {name!r} is missing, which config.json asks for; download it again"
            )
        return owner.entries[name]

    def _bits(self, name: str) -> npt.NDArray[np.uint8]:
        entry = self._entry(name)
        return np.frombuffer(
            self._owner[name].data, dtype=np.uint8, count=entry.end - entry.begin, offset=entry.begin
        )


def widen(array: Weights) -> Floats:
    """float32 values of f32, f16 or bf16 bits, always a copy."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def all_finite(array: Weights) -> bool:
    """False where any value is NaN or infinite; looks at the exponent bits, a few MB at a time."""
    flat = array.reshape(-1)
    step = 1 << 22
    for begin in range(0, len(flat), step):
        part = flat[begin : begin + step]
        bits = part.dtype == np.uint16
        bad = (part.view(np.uint16) & 0x7F80) == 0x7F80 if bits else ~np.isfinite(part)
        if bad.any():
            return False
    return True


def open_checkpoint(folder: Path) -> Checkpoint:
    """Opens model.safetensors, or the shards that model.safetensors.index.json lists."""
    if (folder / INDEX_NAME).exists():
        return _open_shards(folder)
    single = folder / SINGLE_NAME
    if not single.exists():
        single = _only_file(folder)
    file = open_safetensors(single)
    return Checkpoint((file,), dict.fromkeys(file.entries, file))


def _only_file(folder: Path) -> Path:
    """The one safetensors file under another name, or an error that says what the folder lacks."""
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidModel(
            f"{folder} holds {len(found)} safetensors files but no {INDEX_NAME}; download it again"
        )
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise InvalidModel(
            f"{folder} holds only pickled weights ({pickles[0]}), which can run any code when loaded, so "
            f"Narrows never "
            'does. Where you trust the file, convert it: python -c "from transformers import '
            "AutoModelForCausalLM as "
            "M; M.from_pretrained('FOLDER').save_pretrained('NEW_FOLDER')\""
        )
    raise InvalidModel(
        f"{folder} holds no *.safetensors; a model folder needs config.json, weights and tokenizer.json"
    )


def _open_shards(folder: Path) -> Checkpoint:
    weight_map = read_json(folder / INDEX_NAME).get("weight_map")
    # An empty map is no model either.
    if not isinstance(weight_map, dict) or set(map(type, weight_map.values())) != {str}:
        raise InvalidModel(f"{folder / INDEX_NAME} has no weight_map from tensor to file; download it again")
    files: dict[str, SafetensorsFile] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise InvalidModel(f"{folder / INDEX_NAME} names {name!r}, which is not a plain file name")
        files[name] = open_safetensors(folder / name)
    owner = {tensor: files[name] for tensor, name in weight_map.items()}
    for tensor, file in owner.items():
        if tensor not in file.entries:
            raise InvalidModel(
                f"{file.path} lacks tensor {tensor!r}, which {INDEX_NAME} says it holds; download it again"
            )
    unlisted = sorted(set().union(*(file.entries for file in files.values())) - set(owner))
    if unlisted:
        raise InvalidModel(
            f"{folder / INDEX_NAME} does not list {unlisted[0]!r}, which a shard holds; download it again"
        )
    return Checkpoint(tuple(files.values()), owner)
