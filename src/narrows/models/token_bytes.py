"""What bytes a token stands for, read from tokenizer.json's decoder.

In: the decoder as JSON. Out: TokenDecoder: token text -> bytes, and whether a text's first space is dropped.
Exact for byte-level and for sentencepiece-like BPE with byte fallback; other decoders are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from narrows.errors import UnsupportedModel

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class TokenDecoder:
    to_bytes: Callable[[str], bytes]
    strips_leading_space: bool


def byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: bytes that print stand for themselves, the others for U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def make_token_decoder(decoder: Mapping[str, Any] | None, source: str) -> TokenDecoder:
    """The token decoder of a `decoder` entry; `source` is named in errors."""
    steps = _flatten(decoder)
    kinds = [str(step.get("type")) for step in steps]
    if kinds == ["ByteLevel"]:
        return TokenDecoder(_byte_level, strips_leading_space=False)
    if kinds and all(_is_sentencepiece(step) for step in steps):
        return _sentencepiece(steps)
    raise UnsupportedModel(
        f"{source}: the decoder {' + '.join(kinds) or 'null'} is not supported; supported: ByteLevel, and "
        f"sequences of "
        "Replace, ByteFallback, Metaspace, Fuse and Strip"
    )


def _flatten(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder.get("type") == "Sequence":
        return [step for part in decoder["decoders"] for step in _flatten(part)]
    return [decoder]


def _is_sentencepiece(step: Mapping[str, Any]) -> bool:
    match step:
        case {"type": "ByteFallback" | "Fuse" | "Metaspace"}:
            return True
        case {"type": "Replace", "pattern": {"String": str()}, "content": str()}:
            return True
        case {"type": "Strip", "content": " ", "start": 0 | 1, "stop": 0}:
            return True
    return False


_ALPHABET: Final = byte_level_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:  # an added token: its text as it is
        return token.encode("utf-8", "surrogatepass")


def _sentencepiece(steps: list[Mapping[str, Any]]) -> TokenDecoder:
    replaced = [(step["pattern"]["String"], step["content"]) for step in steps if step["type"] == "Replace"]
    replaced += [(step.get("replacement", "\u2581"), " ") for step in steps if step["type"] == "Metaspace"]
    has_bytes = any(step["type"] == "ByteFallback" for step in steps)

    def to_bytes(token: str) -> bytes:
        if has_bytes and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        for old, new in replaced:
            token = token.replace(old, new)
        return token.encode("utf-8", "surrogatepass")

    strips = any(step["type"] == "Strip" and step["start"] == 1 for step in steps) or any(
        step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never" for step in steps
    )
    return TokenDecoder(to_bytes, strips)
