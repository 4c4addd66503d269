"""The border of the byte-pair tables: what comes back, and every argument that is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from narrows import _core
from narrows.kernels.byte_pairs import ByteLevelVocabulary, BytePairs, pack_pairs
from narrows.models.token_bytes import byte_level_alphabet

SYMBOLS = sorted(byte_level_alphabet(), key=byte_level_alphabet().__getitem__)
IDS = {symbol: 1000 - byte for byte, symbol in enumerate(SYMBOLS)} | {"th": 5, "the": 6, "he": 7}
OTHERS = np.array([4_000_000_000, 2**32 - 1], dtype=np.uint32)


def tables(*merges: tuple[str, str]) -> Any:
    return pack_pairs(ByteLevelVocabulary(IDS, merges, SYMBOLS, whole_words=False), OTHERS)


def raw(**changes: object) -> Any:
    texts = [text.encode() for text in IDS]
    arguments: dict[str, Any] = {
        "text_sizes": np.array([len(text) for text in texts], dtype=np.uint32),
        "ids": np.array(list(IDS.values()), dtype=np.uint32),
        "merges": np.array([IDS["t"], IDS["h"], 5], dtype=np.uint32),
        "symbols": np.array([IDS[symbol] for symbol in SYMBOLS], dtype=np.uint32),
        "others": OTHERS,
        "whole_words": False,
    }
    return _core.pack_byte_pairs(b"".join(texts), **(arguments | changes))


def test_words_merge_by_rank_and_the_later_of_equal_merges_counts() -> None:
    the = list(b"the")
    assert BytePairs(tables(("t", "h"), ("th", "e"))).encode(the, [0, 0, 0]) == [6]
    assert BytePairs(tables(("h", "e"), ("t", "h"))).encode(the, [0, 0, 0]) == [IDS["t"], 7]
    again = BytePairs(tables(("t", "h"), ("h", "e"), ("t", "h")))  # "th" now ranks behind "he"
    assert again.encode(the, [0, 0, 0]) == [IDS["t"], 7]
    assert again.encode([*b"th", 256], [0, 1, None]) == [IDS["t"], IDS["h"], 4_000_000_000]
    assert again.encode([], []) == []
    assert (again.text(6), again.text(8), again.id("the"), again.id("thee")) == ("the", None, 6, None)


def test_tables_stay_alive_with_their_view() -> None:
    pairs = BytePairs(np.array(tables(("t", "h"))))
    assert pairs.encode(list(b"th"), [3, 3]) == [5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_sizes": np.ones(3, dtype=np.uint32)}, "text_sizes and ids differ in length"),
        ({"text_sizes": np.ones(259, dtype=np.uint32)}, "do not add up"),
        ({"ids": np.ones(259, dtype=np.uint32)}, "two tokens have the id 1"),
        ({"ids": np.full(259, 2**31, dtype=np.uint32)}, "too large"),
        ({"merges": np.ones(4, dtype=np.uint32)}, "not three ids"),
        ({"merges": np.array([5, 6, 8], dtype=np.uint32)}, "merges names 8, which is no token"),
        ({"merges": np.array([5, 2**32 - 1, 6], dtype=np.uint32)}, "which is no token"),
        ({"symbols": np.ones(255, dtype=np.uint32)}, "symbols has not 256 ids"),
        ({"symbols": np.zeros(256, dtype=np.uint32)}, "symbols names 0, which is no token"),
    ],
)
def test_sources_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        raw(**changes)


@pytest.mark.parametrize("ids", [[1, 2], np.ones(259, dtype=np.int64), np.ones((259, 1), dtype=np.uint32)])
def test_arrays_of_another_kind_are_refused(ids: object) -> None:
    with pytest.raises(TypeError):
        raw(ids=ids)


PAIRS = BytePairs(tables(("t", "h")))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PAIRS.encode([1, 2], [1]), ValueError, "differ in length"),
        (lambda: PAIRS.encode([-1], [1]), ValueError, "symbols holds a number out of range"),
        (lambda: PAIRS.encode([2**40], [1]), ValueError, "symbols holds a number out of range"),
        (lambda: PAIRS.encode([10**30], [1]), ValueError, "symbols holds a number out of range"),
        (lambda: PAIRS.encode([1], [2**31]), ValueError, "words holds a number out of range"),
        (lambda: PAIRS.encode([1], ["x"]), TypeError, "words holds something other than int"),
        (lambda: PAIRS.encode([1.0], [1]), TypeError, "symbols holds something other than int"),
        (lambda: PAIRS.encode([257], [1]), ValueError, "symbol 257 has no token"),
        (lambda: PAIRS.encode([258], [1]), ValueError, "symbol 258 has no token"),
        (lambda: PAIRS.encode((1,), (1,)), TypeError, "incompatible function arguments"),
        (lambda: PAIRS.id("\ud800"), UnicodeEncodeError, "surrogates not allowed"),
        (lambda: BytePairs(np.zeros(4096, dtype=np.uint8)), ValueError, "of another kind"),
        (lambda: BytePairs(np.zeros(7, dtype=np.uint8)), ValueError, "too early"),
        (lambda: BytePairs(tables(("t", "h"))[4:]), ValueError, "damaged"),
        (lambda: BytePairs(np.zeros(4096)), TypeError, "incompatible function arguments"),
    ],
)
def test_wrong_arguments_are_refused(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
