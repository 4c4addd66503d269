"""The compiled tokenizer gives the library's ids for any text, and its texts for any id."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.errors import InvalidRequest
from narrows.models.tokenizer import Tokenizer
from tests.models.byte_level import MAKERS, PIECES, Both
from tests.models.real import real_tokenizer


@pytest.fixture(scope="module", params=[*MAKERS, "shared:gpt2", "shared:qwen"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    name = request.param
    folder = tmp_path_factory.mktemp("tokenizer")
    if name.startswith("shared:"):
        folder = real_tokenizer(name.removeprefix("shared:"))
    else:
        MAKERS[name]().save(str(folder / "tokenizer.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARROWS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield Both(folder)


@pytest.mark.parametrize("text", ["", " ", "<s>", "<s></s><s>", "<tool><tool>", "!", "the the", *PIECES])
def test_known_texts_get_the_same_ids(both: Both, text: str) -> None:
    both.check(text)
    both.check(text * 3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(parts=st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=12)), max_size=12))
def test_any_text_gets_the_same_ids(both: Both, parts: list[str]) -> None:
    text = "".join(parts).encode("utf-8", "replace").decode()
    both.check(text)


@pytest.mark.parametrize("seed", range(3))
def test_long_words_and_random_bytes_get_the_same_ids(both: Both, seed: int) -> None:
    chance = random.Random(seed)
    both.check("".join(chance.choices("thequickfox", k=20_000)))
    both.check("a" * (4_000 + seed))
    both.check(chance.randbytes(20_000).decode("utf-8", "replace"))
    both.check("".join(map(chr, chance.choices(range(0x3000, 0xD000), k=5_000))))


def test_every_token_has_the_same_text_id_and_bytes(both: Both) -> None:
    library, compiled = both.library, both.compiled
    top = library.num_tokens_with_added
    for token_id in (-1, *range(top + 3), 2**31, 2**40):
        if token_id < 0 or token_id >= 2**32:  # the library has no word for these
            assert compiled.token(token_id) is None
            continue
        text = library.token(token_id)
        assert compiled.token(token_id) == text
        if text is not None:
            assert compiled.token_id(text) == library.token_id(text)
    assert compiled.token_id("no such token") is None
    names = ("num_tokens", "num_tokens_with_added", "special_ids", "decoder")
    assert all(getattr(compiled, name) == getattr(library, name) for name in names)
    ours = Tokenizer.from_folder(both.folder, encoder=compiled)
    theirs = Tokenizer.from_folder(both.folder)
    assert ours.vocab_size == theirs.vocab_size
    assert all(ours.token_bytes(i) == theirs.token_bytes(i) for i in range(-1, top + 2))
    text = " ".join(PIECES)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


def test_lone_surrogates_are_the_request_s_error(both: Both) -> None:
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        Tokenizer.from_folder(both.folder, encoder=both.compiled).encode("a\ud800b")


def test_threads_may_encode_at_once(both: Both) -> None:
    texts = [" ".join(random.Random(i).choices(PIECES, k=40)) for i in range(64)]
    expected = [both.library.encode(text, add_special=True) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: both.compiled.encode(text, add_special=True), texts)) == expected
