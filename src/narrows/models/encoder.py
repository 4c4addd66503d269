"""What a Tokenizer asks of the code that turns text into ids, and the `tokenizers` library doing it.

In: tokenizer.json. Out: Encoder. compiled_encoder.py has the other implementation. Knows neither chats nor
models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from tokenizers import Tokenizer as FastTokenizer

from narrows.errors import InvalidModel

# The library keeps the tokens of the first words it meets, 10,000 of them: 4 MB of English words and 84 MB of
# the longest that it keeps, for a quarter of the encoding time. Most of a text is its commonest words.
MAX_KEPT_WORDS: Final = 1000


class Encoder(Protocol):
    """Thread-safe."""

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids; UnicodeEncodeError or TypeError for lone surrogates."""

    def token(self, token_id: int) -> str | None:
        """A token as tokenizer.json writes it."""

    def token_id(self, token: str) -> int | None:
        """The id of a token by its exact text."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the vocabulary, without added ones."""

    @property
    def num_tokens_with_added(self) -> int: ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Added tokens that are no text."""

    @property
    def decoder(self) -> Mapping[str, Any] | None:
        """The `decoder` entry of tokenizer.json."""


class LibraryEncoder:
    """The library's tokenizer."""

    def __init__(self, fast: FastTokenizer) -> None:
        self.fast = fast

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        # The batch call releases the GIL: a long text must not hold up the streams of others.
        ids: list[int] = self.fast.encode_batch_fast([text], add_special_tokens=add_special)[0].ids
        return ids

    def token(self, token_id: int) -> str | None:
        found: str | None = self.fast.id_to_token(token_id)
        return found

    def token_id(self, token: str) -> int | None:
        found: int | None = self.fast.token_to_id(token)
        return found

    @property
    def num_tokens(self) -> int:
        return int(self.fast.get_vocab_size(with_added_tokens=False))

    @property
    def num_tokens_with_added(self) -> int:
        return int(self.fast.get_vocab_size())

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset(i for i, token in self.fast.get_added_tokens_decoder().items() if token.special)

    @property
    def decoder(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = part_json(self.fast.decoder)
        return found


def bound_kept_words(fast: FastTokenizer) -> None:
    """Of the models, BPE and Unigram keep words; releases before 0.21.1 know no bound."""
    resize = getattr(fast.model, "_resize_cache", None)
    if resize is not None:
        resize(MAX_KEPT_WORDS)


def part_json(part: Any) -> Any:  # noqa: ANN401
    """A part of the library's tokenizer, such as its decoder, as tokenizer.json writes it."""
    return None if part is None else json.loads(part.__getstate__())


def read_tokenizer_json(folder: Path) -> bytes:
    """The file's bytes; InvalidModel says what to do where there is none or it may not be read."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InvalidModel(
            f"{path} is missing; where the folder has tokenizer.model or vocab.json instead, convert it: "
            f"python -c "
            '"from transformers import AutoTokenizer as T; '
            "T.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}; change its permissions") from error


def parse_library(content: bytes, source: Path) -> LibraryEncoder:
    """The library's tokenizer of a tokenizer.json: a third of a second for 150,000 tokens, under the GIL."""
    try:
        fast = FastTokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception
        raise InvalidModel(
            f"{source} is damaged or of an unknown format ({error}); download it again"
        ) from error
    fast.no_truncation()  # a prompt is never cut or padded behind the caller's back
    fast.no_padding()
    bound_kept_words(fast)
    return LibraryEncoder(fast)


def read_library(folder: Path) -> LibraryEncoder:
    """The library's tokenizer of a folder; InvalidModel where its file is missing or damaged."""
    return parse_library(read_tokenizer_json(folder), folder / "tokenizer.json")
