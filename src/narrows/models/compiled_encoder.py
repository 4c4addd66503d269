"""A tokenizer that opens in milliseconds, where tokenizer.json takes a third of a second to parse.

In: a model folder. Out: Encoder. The library still cuts a text into added tokens and words, by a skeleton of
the tokenizer without a vocabulary; the core merges the bytes of each word. The compiled form is made at the
first start, compared with the library, and kept beside the packed weights.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import tokenizers

from narrows.errors import InvalidModel
from narrows.kernels.byte_pairs import VERSION, CompiledFile, content_checksum, read_compiled, write_compiled
from narrows.kernels.cache import CacheEntry, cache_entry, cache_folder
from narrows.models.encoder import (
    Encoder,
    LibraryEncoder,
    bound_kept_words,
    parse_library,
    read_tokenizer_json,
)

log = logging.getLogger(__name__)

MIN_BYTES: Final = 1_000_000  # smaller files are parsed as fast as a compiled one is found and opened
MAX_CHARACTERS: Final = 131_072  # a skeleton takes about a hundred bytes for each; the library far fewer


class CompiledEncoder:
    """Thread-safe: tables are only read. `read_library` is called once, for the first very long text."""

    def __init__(self, file: CompiledFile, read_library: Callable[[], LibraryEncoder | None]) -> None:
        """Raises what comes of facts that are not as they were written."""
        facts = file.facts
        self._pairs = file.pairs
        self._skeleton = tokenizers.Tokenizer.from_str(facts["skeleton"])
        bound_kept_words(self._skeleton)
        self._texts: dict[int, str] = dict(facts["texts"])
        self._ids: dict[str, int] = dict(facts["ids"])
        self._read_library = read_library
        self._library: LibraryEncoder | None = None
        self._has_read = False
        self._lock = threading.Lock()
        self.num_tokens = int(facts["num_tokens"])
        self.num_tokens_with_added = int(facts["num_tokens_with_added"])
        self.special_ids = frozenset[int](facts["special_ids"])
        self.decoder: Mapping[str, Any] | None = facts["decoder"]

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        if len(text) > MAX_CHARACTERS and (library := self._for_long_texts()) is not None:
            return library.encode(text, add_special=add_special)
        found = self._skeleton.encode_batch([text], add_special_tokens=add_special)[0]  # without the GIL
        return self._pairs.encode(found.ids, found.word_ids)

    def token(self, token_id: int) -> str | None:
        return self._texts.get(token_id) or self._pairs.text(token_id)

    def token_id(self, token: str) -> int | None:
        found = self._ids.get(token)
        return self._pairs.id(token) if found is None else found

    def _for_long_texts(self) -> LibraryEncoder | None:
        with self._lock:
            if not self._has_read:
                self._library = self._read_library()
                self._has_read = True
            return self._library


def open_encoder(
    folder: Path,
    *,
    use_cache: bool = True,
    min_bytes: int = MIN_BYTES,
    before_parsing: Callable[[], object] = lambda: None,
) -> Encoder:
    """The compiled tokenizer of a folder, or the library's, which is then compiled for the next time.

    Files of less than `min_bytes` are not compiled. `before_parsing` is called before the GIL is held for
    long. Raises InvalidModel for a tokenizer.json that is missing or damaged.
    """
    content = read_tokenizer_json(folder)
    entry = _entry(folder, content) if use_cache and len(content) >= min_bytes else None
    compiled = None if entry is None else _open(entry, folder)
    if compiled is not None:
        return compiled
    before_parsing()
    library = parse_library(content, folder / "tokenizer.json")
    if entry is not None:
        _keep(entry, content, library)
    return library


def _entry(folder: Path, content: bytes) -> CacheEntry | None:
    try:
        where = cache_folder()
    except RuntimeError:  # a user without a home; whoever keeps the weights says so
        return None
    slot = f"{folder.resolve()} tokenizer {tokenizers.__version__}"
    return cache_entry(where, slot=slot, key=_key(content), num_bytes=0)


def _key(content: bytes) -> str:
    # Also the library: what it cuts and which ids it gives to added tokens is part of the file.
    return f"tokenizer {content_checksum(content)} {VERSION} tokenizers-{tokenizers.__version__}"


def _open(entry: CacheEntry, folder: Path) -> CompiledEncoder | None:
    file, reason = read_compiled(entry)
    if file is not None:
        try:
            return CompiledEncoder(file, partial(_read_same, folder, entry.key))
        except Exception as error:  # the library raises bare Exception
            reason = f"damaged ({error!r})"
    if reason:
        log.warning("the compiled tokenizer %s is %s; compiling again", entry.path, reason)
    return None


def _read_same(folder: Path, key: str) -> LibraryEncoder | None:
    """The library's tokenizer, where the folder still holds the file that was compiled."""
    try:
        content = read_tokenizer_json(folder)
        if _key(content) == key:
            return parse_library(content, folder / "tokenizer.json")
        reason = "it has changed since this process began"
    except InvalidModel as error:
        reason = str(error)
    log.warning("long texts take the compiled tokenizer and more memory, without tokenizer.json: %s", reason)
    return None


def _keep(entry: CacheEntry, content: bytes, library: LibraryEncoder) -> None:
    """Compiles, compares and writes. Nothing that goes wrong here may stop a start."""
    from narrows.models.compiling import can_compile, compile_tokenizer, find_difference

    if not can_compile(library):
        return
    where = entry.path.parent
    try:
        where.mkdir(parents=True, exist_ok=True)
        if not os.access(where, os.W_OK):
            raise PermissionError("it cannot be written to")
        made = compile_tokenizer(content, library)
        if made is None:
            return
        compiled = CompiledEncoder(CompiledFile.of(made.facts, made.tables), lambda: None)
        difference = find_difference(library, compiled)
        if difference is not None:
            log.warning("the tokenizer is not compiled: %s comes out differently; this is a bug", difference)
            return
        write_compiled(entry, made.facts, made.tables)
    except OSError as error:
        log.warning("the compiled tokenizer cannot be kept in %s (%s)", where, error)
    except Exception as error:
        log.warning("the tokenizer is not compiled (%r); this is a bug", error)
