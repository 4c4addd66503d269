"""Text to token ids and back, for one model folder.

In: tokenizer.json, tokenizer_config.json, generation_config.json. Out: Tokenizer: ids, exact token bytes,
end tokens, the conversation template. As in transformers 5, tokenizer.json alone says which tokens are added
around a text; add_bos_token of tokenizer_config.json is for folders that lack it. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from narrows.errors import InvalidModel, InvalidRequest
from narrows.models.chat_template import ChatTemplate, read_chat_template
from narrows.models.config import read_json
from narrows.models.encoder import Encoder, read_library
from narrows.models.token_bytes import TokenDecoder, make_token_decoder

TOKEN_NAMES: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "cls_token",
    "mask_token",
)
MAX_KEPT_TOKENS: Final = 32_768  # about 100 bytes each; finding out again takes three microseconds


class Tokenizer:
    """Thread-safe: encoding holds no state, and the byte cache, of MAX_KEPT_TOKENS at most, only ever gains
    equal entries.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: TokenDecoder,
        *,
        eos_ids: frozenset[int],
        bos_id: int | None,
        vocab_limit: int | None,
        template: ChatTemplate | None,
    ) -> None:
        self._encoder = encoder
        self._decoder = decoder
        self._template = template
        self._limit = encoder.num_tokens_with_added if vocab_limit is None else vocab_limit
        self._bytes: dict[int, bytes] = {}
        self.eos_ids = eos_ids
        self.bos_id = bos_id
        self.special_ids = encoder.special_ids
        self.strips_leading_space = decoder.strips_leading_space

    @classmethod
    def from_folder(
        cls, folder: Path, *, vocab: int | None = None, encoder: Encoder | None = None
    ) -> Tokenizer:
        """Reads a folder. `vocab` is the size of the model's embedding: ids beyond it are refused. `encoder`
        is what `read_library` or `open_encoder` gave for this folder, where it was called ahead.
        """
        encoder = encoder or read_library(folder)
        _check_size(folder, encoder, vocab)
        settings = (
            read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        )
        names = _special_names(settings)
        text = read_chat_template(folder, settings)
        return cls(
            encoder,
            make_token_decoder(encoder.decoder, str(folder / "tokenizer.json")),
            eos_ids=_eos_ids(folder, encoder, names),
            bos_id=encoder.token_id(names["bos_token"]) if "bos_token" in names else None,
            vocab_limit=vocab,
            template=None if text is None else ChatTemplate(text, names),
        )

    @property
    def vocab_size(self) -> int:
        """Ids are below this number."""
        return self._limit

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids; `add_special` adds what the model expects around a text, such as a begin token."""
        try:
            ids = self._encoder.encode(text, add_special=add_special)
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidRequest(
                "the text holds characters that are not valid Unicode (lone surrogates)"
            ) from error
        if ids and max(ids) >= self._limit:
            token = self._encoder.token(max(ids))
            raise InvalidRequest(
                f"the text holds {token!r}, token {max(ids)}, but this model's vocabulary ends at "
                f"{self._limit - 1}"
            )
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens; special tokens are left out, incomplete characters become U+FFFD."""
        text = b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")
        return text[1:] if self.strips_leading_space and text.startswith(" ") else text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token adds to a text: b"" for special tokens and ids the tokenizer does not know."""
        known = self._bytes.get(token_id)
        if known is None:
            special = token_id in self.special_ids or not 0 <= token_id < self._limit
            token = None if special else self._encoder.token(token_id)
            known = b"" if token is None else self._decoder.to_bytes(token)
            if len(self._bytes) < MAX_KEPT_TOKENS:
                self._bytes[token_id] = known
        return known

    def token_id(self, token: str) -> int | None:
        """The id of a token by its exact text."""
        return self._encoder.token_id(token)

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """The conversation as the model was trained to read it, special tokens spelled out."""
        if self._template is None:
            raise InvalidRequest(
                "this model has no chat template; use /v1/completions, or add chat_template.jinja to its "
                "folder",
                param="messages",
            )
        return self._template.render(messages, add_generation_prompt=add_generation_prompt)


def _check_size(folder: Path, encoder: Encoder, vocab: int | None) -> None:
    """A few added tokens may lie beyond the embedding (Gemma 3's image token), the vocabulary may not."""
    size = encoder.num_tokens
    if vocab is not None and size > vocab:
        raise InvalidModel(
            f"{folder / 'tokenizer.json'} has {size} tokens but the model's embedding has {vocab} rows; "
            "the files do not belong together"
        )


def _special_names(settings: Mapping[str, Any]) -> dict[str, str]:
    names = {}
    for name in TOKEN_NAMES:
        value = settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            names[name] = text
    return names


def _eos_ids(folder: Path, encoder: Encoder, names: Mapping[str, str]) -> frozenset[int]:
    """Every token that ends an answer, by generation_config.json (else config.json) and the tokenizer."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id") if (folder / name).exists() else None
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
            raise InvalidModel(
                f"{folder / name}: eos_token_id is {value!r}; it must be a token id or a list of them"
            )
        found.update(ids)
        break
    token_id = encoder.token_id(names["eos_token"]) if "eos_token" in names else None
    return frozenset(found if token_id is None else found | {token_id})
