"""The Python border of byte-pair tables, and the file that keeps a compiled tokenizer.

In: a vocabulary and its merges; where the file is to lie. Out: tables that are viewed where they lie. What
the cache file holds: the length of a JSON in 8 bytes, the JSON, and from the next multiple of 64 on the
tables. Knows no text: how it is cut into bytes and words is the tokenizer's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from narrows import _core
from narrows.kernels.cache import CacheEntry, cache_writer, map_cache
from narrows.kernels.formats import round_up
from narrows.kernels.packing import Bytes

VERSION: Final = 1  # of the JSON and of the tables together
ALIGNMENT: Final = 64
LENGTH_BYTES: Final = 8

BytePairs = _core.BytePairs
Ids = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class ByteLevelVocabulary:
    """What byte-pair encoding needs: every token by its text, merges by rank, the 256 bytes."""

    ids: Mapping[str, int]  # distinct, below 2**27
    merges: Sequence[tuple[str, str]]  # left and right; they and what they make are tokens
    symbols: Sequence[str]  # [256] the token of each byte alone
    whole_words: bool  # a word that is a token is taken as it is


@dataclass(frozen=True, slots=True)
class CompiledFile:
    """A compiled tokenizer, opened."""

    facts: dict[str, Any]
    pairs: BytePairs

    @classmethod
    def of(cls, facts: dict[str, Any], tables: Bytes) -> CompiledFile:
        """ValueError where the tables are damaged."""
        return cls(facts, BytePairs(tables))


def content_checksum(data: bytes) -> str:
    """A checksum of 64 bits for the key of a cache file; the GIL is released."""
    return f"{_core.checksum(np.frombuffer(data, dtype=np.uint8), _core.ThreadPool(1)):016x}"


def pack_pairs(vocabulary: ByteLevelVocabulary, others: Ids) -> Bytes:
    """The tables as bytes. `others` [symbols past 255]: their ids, 2**32 - 1 for none."""
    ids = vocabulary.ids
    texts = [text.encode() for text in ids]
    merged = [(ids[left], ids[right], ids[left + right]) for left, right in vocabulary.merges]
    return _core.pack_byte_pairs(
        b"".join(texts),
        text_sizes=np.fromiter(map(len, texts), np.uint32, len(texts)),
        ids=np.fromiter(ids.values(), np.uint32, len(ids)),
        merges=np.array(merged, dtype=np.uint32).reshape(-1),
        symbols=np.array([ids[symbol] for symbol in vocabulary.symbols], dtype=np.uint32),
        others=others,
        whole_words=vocabulary.whole_words,
    )


def read_compiled(entry: CacheEntry) -> tuple[CompiledFile | None, str]:
    """The verified file, mapped; or None and why ("" where there is none). `entry` need not know its size."""
    try:
        entry = replace(entry, num_bytes=max(0, entry.path.stat().st_size - entry.data_start))
        file, reason = map_cache(entry, _core.ThreadPool(1))
        if file is None:
            return None, reason
        begin = LENGTH_BYTES + int.from_bytes(file.data[:LENGTH_BYTES].tobytes(), "little")
        facts = json.loads(file.data[LENGTH_BYTES:begin].tobytes())
        return CompiledFile.of(facts, file.data[round_up(begin, ALIGNMENT) :]), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError) as error:
        return None, f"unreadable ({error})"


def write_compiled(entry: CacheEntry, facts: Mapping[str, Any], tables: Bytes) -> None:
    """Writes the file whole or not at all. Raises OSError where the disk does not take it."""
    raw = json.dumps(facts).encode()
    begin = round_up(LENGTH_BYTES + len(raw), ALIGNMENT)
    with cache_writer(replace(entry, num_bytes=begin + len(tables))) as writer:
        front = len(raw).to_bytes(LENGTH_BYTES, "little") + raw
        writer.data[: len(front)] = np.frombuffer(front, dtype=np.uint8)
        writer.data[begin:] = tables
        writer.commit(_core.ThreadPool(1))
