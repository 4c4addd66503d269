"""A tokenizer does not grow with the texts that it reads."""

from __future__ import annotations

import ctypes
import random
import string
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from narrows.demo import model
from narrows.models import tokenizer as tokenizer_module
from narrows.models.compiled_encoder import open_encoder
from narrows.models.encoder import Encoder, read_library
from narrows.models.tokenizer import Tokenizer

MODEL = Path(model.__path__[0])
OPENERS: dict[str, Callable[[], Encoder]] = {
    "library": lambda: read_library(MODEL),
    "compiled": lambda: open_encoder(MODEL, min_bytes=0),
}


class Heap(ctypes.Structure):
    """struct mallinfo2 (malloc.h of glibc): bytes of all arenas."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def native_bytes() -> int:
    """In use by malloc: what tracemalloc does not see."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("the C library does not tell what is in use")
    libc.mallinfo2.restype = Heap
    heap = libc.mallinfo2()
    return heap.uordblks + heap.hblkhd


@pytest.mark.parametrize("opener", OPENERS)
def test_ever_new_words_are_not_kept(opener: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 of them: without a bound the library keeps half, and 40 MB."""
    monkeypatch.setenv("NARROWS_CACHE_DIR", str(tmp_path))
    OPENERS[opener]()  # compiles
    encoder = OPENERS[opener]()
    assert type(encoder).__name__.lower().startswith(opener)
    chance = random.Random(0)

    def read(num_words: int) -> None:
        words = ("".join(chance.choices(string.ascii_lowercase, k=120)) for _ in range(num_words))
        encoder.encode(" ".join(words), add_special=False)

    for _ in range(20):
        read(100)
    before = native_bytes()
    for _ in range(180):
        read(100)
    assert native_bytes() - before < 1_000_000


def test_the_bytes_of_tokens_are_right_whether_kept_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.from_folder(MODEL)
    expected = [tokenizer.token_bytes(token_id) for token_id in range(300)]
    monkeypatch.setattr(tokenizer_module, "MAX_KEPT_TOKENS", 100)
    bounded = Tokenizer.from_folder(MODEL)
    for _ in range(2):
        assert [bounded.token_bytes(token_id) for token_id in range(300)] == expected
    assert sys.getsizeof(bounded._bytes) < sys.getsizeof(dict.fromkeys(range(200)))
