"""The file of a compiled tokenizer: made where it can be, trusted where it is sound, else done without."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models

from narrows.kernels import byte_pairs
from narrows.models import compiled_encoder, compiling
from narrows.models.compiled_encoder import MAX_CHARACTERS, CompiledEncoder, open_encoder
from narrows.models.encoder import LibraryEncoder, read_library
from tests.models.byte_level import PIECES, Both, plain, rich, split


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NARROWS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    rich().save(str(folder / "tokenizer.json"))
    return folder


def test_a_very_long_text_is_the_library_s_business(saved: Path, home: Path) -> None:
    both = Both(saved)
    text = (" ".join(PIECES) * 1000)[:200_000]
    assert len(text) > MAX_CHARACTERS
    both.check(text)
    (saved / "tokenizer.json").unlink()
    both.check(text)  # read once, kept


def test_a_very_long_text_does_without_the_library_where_its_file_has_changed(
    saved: Path, home: Path
) -> None:
    text = ("The quick fox. " * 20_000)[:200_000]
    for change in (lambda path: path.write_text("{}"), lambda path: path.unlink()):
        rich().save(str(saved / "tokenizer.json"))
        library = read_library(saved)
        open_encoder(saved, min_bytes=0)
        compiled = open_encoder(saved, min_bytes=0)
        change(saved / "tokenizer.json")
        assert compiled.encode(text, add_special=True) == library.encode(text, add_special=True)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: raw[: len(raw) // 2], "checksum does not match|wrong size"),
        (lambda raw: raw[:10], "not a packed model"),
        (lambda raw: b"", "not a packed model"),
        (lambda raw: raw[:60] + b"#" + raw[61:], "header does not match"),
        (lambda raw: raw[:-5] + bytes([raw[-5] ^ 1]) + raw[-4:], "checksum does not match"),
        (lambda raw: raw[:4200] + bytes([raw[4200] ^ 1]) + raw[4201:], "checksum does not match"),
    ],
)
def test_a_damaged_file_is_reported_and_made_again(
    saved: Path, home: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes], reason: str
) -> None:
    open_encoder(saved, min_bytes=0)
    (file,) = home.iterdir()
    raw = file.read_bytes()
    file.write_bytes(damage(raw))
    assert isinstance(open_encoder(saved, min_bytes=0), LibraryEncoder)
    assert "compiled tokenizer" in caplog.text
    assert any(part in caplog.text for part in reason.split("|"))
    assert file.read_bytes() == raw
    assert isinstance(open_encoder(saved, min_bytes=0), CompiledEncoder)


@pytest.mark.parametrize(
    ("facts", "tables", "reason"),
    [
        ({}, None, "damaged"),
        ([], None, "damaged"),
        ({"skeleton": "{}", "texts": [], "ids": []}, None, "damaged"),
        (None, b"", "tables are damaged"),
        (None, bytes(4096), "tables are damaged"),
    ],
)
def test_a_foreign_file_with_a_sound_checksum_is_made_again(
    saved: Path,
    home: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    facts: object,
    tables: bytes | None,
    reason: str,
) -> None:
    write = byte_pairs.write_compiled

    def write_other(entry, made_facts, made_tables):
        other = made_tables if tables is None else np.frombuffer(tables, dtype=np.uint8)
        write(entry, made_facts if facts is None else facts, other)

    with monkeypatch.context() as patch:
        patch.setattr(compiled_encoder, "write_compiled", write_other)
        open_encoder(saved, min_bytes=0)
    assert isinstance(open_encoder(saved, min_bytes=0), LibraryEncoder)
    assert reason in caplog.text
    assert isinstance(open_encoder(saved, min_bytes=0), CompiledEncoder)


def test_a_changed_tokenizer_is_compiled_again_and_replaces_its_file(
    saved: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_encoder(saved, min_bytes=0)
    split().save(str(saved / "tokenizer.json"))
    both = Both(saved)
    assert "stale" in caplog.text
    both.check(" ".join(PIECES))
    assert len(list(home.iterdir())) == 1


def test_small_files_and_starts_without_a_cache_are_the_library_s(saved: Path, home: Path) -> None:
    for _ in range(2):
        assert isinstance(open_encoder(saved), LibraryEncoder)
        assert isinstance(open_encoder(saved, use_cache=False, min_bytes=0), LibraryEncoder)
    assert not home.exists()


def test_a_disk_that_takes_nothing_only_warns(
    saved: Path, home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_space)
        assert isinstance(open_encoder(saved, min_bytes=0), LibraryEncoder)
    assert "cannot be kept" in caplog.text
    assert "No space left" in caplog.text
    assert list(home.iterdir()) == []
    home.rmdir()
    home.write_text("a file where the folder should be")
    assert isinstance(open_encoder(saved, min_bytes=0), LibraryEncoder)
    monkeypatch.setenv("NARROWS_CACHE_DIR", "~nobody-of-this-name/cache")
    assert isinstance(open_encoder(saved, min_bytes=0), LibraryEncoder)


def test_what_encodes_differently_is_not_kept(
    saved: Path, home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_merges", lambda merges: [tuple(merge) for merge in merges[::-1]])
    with caplog.at_level(logging.WARNING):
        assert isinstance(open_encoder(saved, min_bytes=0), LibraryEncoder)
    assert "comes out differently; this is a bug" in caplog.text
    assert list(home.iterdir()) == []


def without_a_byte() -> FastTokenizer:
    document = json.loads(plain().to_str())
    model = document["model"]
    model["vocab"] = {token: i for token, i in model["vocab"].items() if "z" not in token}
    model["merges"] = [merge for merge in model["merges"] if "z" not in "".join(merge)]
    return FastTokenizer.from_str(json.dumps(document))


def changed(**parts: object) -> FastTokenizer:
    document = json.loads(plain().to_str())
    for name, value in parts.items():
        (document["model"] if name in document["model"] else document)[name] = value
    return FastTokenizer.from_str(json.dumps(document))


@pytest.mark.parametrize(
    "make",
    [
        lambda: changed(dropout=0.5),
        lambda: changed(byte_fallback=True),
        lambda: changed(unk_token="a"),
        lambda: changed(end_of_word_suffix="</w>", merges=[]),
        lambda: changed(pre_tokenizer={"type": "Whitespace"}),
        lambda: changed(pre_tokenizer=None),
        lambda: changed(post_processor={"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
        lambda: FastTokenizer(models.WordLevel({"a": 0}, unk_token="a")),
        without_a_byte,
    ],
)
def test_other_tokenizers_stay_with_the_library(
    tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture, make: Callable[[], FastTokenizer]
) -> None:
    make().save(str(tmp_path / "tokenizer.json"))
    for _ in range(2):
        assert isinstance(open_encoder(tmp_path, min_bytes=0), LibraryEncoder)
    assert caplog.text == ""
    assert not home.exists() or list(home.iterdir()) == []


def test_the_turn_to_parse_is_waited_for_only_where_there_is_something_to_parse(
    saved: Path, home: Path
) -> None:
    waits: list[int] = []
    for _ in range(3):
        open_encoder(saved, min_bytes=0, before_parsing=lambda: waits.append(1))
    assert waits == [1]
