"""Bytes of tokens in, whole characters out, one token at a time.

The pieces put together are what decoding all bytes at once gives (`errors="replace"`): the incomplete end of
a character is kept back until its rest comes, and becomes one U+FFFD where it never does. Knows no tokenizer:
only `token_bytes`. O(1) per token.
"""

from __future__ import annotations

from codecs import utf_8_decode
from typing import Protocol


class Vocabulary(Protocol):
    """What the engine must know of a tokenizer."""

    @property
    def strips_leading_space(self) -> bool:
        """Whether decoding a text drops its first space (sentencepiece)."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token adds to a text: b"" for special tokens and ids the tokenizer does not know."""


class Detokenizer:
    """The state of one text: at most three bytes of a character not yet whole."""

    __slots__ = ("_pending", "_strip")

    def __init__(self, *, strip_leading_space: bool = False) -> None:
        self._pending = b""
        self._strip = strip_leading_space

    def feed(self, data: bytes) -> str:
        """The characters that `data` completes."""
        if self._pending:
            data = self._pending + data
        text, num_used = utf_8_decode(data, "replace", False)
        self._pending = data[num_used:]
        return self._stripped(text) if self._strip else text

    def finish(self) -> str:
        """What is left at the end: U+FFFD for an incomplete character, else nothing."""
        text, _ = utf_8_decode(self._pending, "replace", True)
        self._pending = b""
        return text

    def _stripped(self, text: str) -> str:
        if not text:
            return text
        self._strip = False
        return text[1:] if text[0] == " " else text
