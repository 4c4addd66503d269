"""From a byte-level tokenizer.json to what a CompiledEncoder opens, and the proof that it encodes alike.

In: the file's bytes and the library's tokenizer of them. Out: facts (JSON) and tables (bytes), or nothing
for tokenizers of another kind. The facts hold a *skeleton*: the same tokenizer with the 256 bytes as its
whole vocabulary. Knows no files.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from narrows.kernels.byte_pairs import ByteLevelVocabulary, Ids, pack_pairs
from narrows.kernels.packing import Bytes
from narrows.models.encoder import Encoder, LibraryEncoder, part_json
from narrows.models.token_bytes import byte_level_alphabet

NO_TOKEN: Final = 2**32 - 1
CHUNK: Final = 16_384  # characters of a probe
MAX_LINES: Final = 400_000  # characters of tokens as lines: both encoders take a second for a million
NUM_BYTES: Final = 256
SPARSE: Final = 4  # tables have a row for each id: so many times more than there are tokens at most
SAMPLES: Final = (
    "The quick brown fox can't jump; they'll say it's 3.14159 or 1,234,567!  Two spaces, \ttabs\r\n\n\n end ",
    "Größe, façade, e\u0301\u0327, \u1e9b\u0323, \ufb01, \u2167, İstanbul, \u212b \u00a0nbsp\u2009\u3000wide",
    "Быстрая лиса; ο γρήγορος; שועל מהיר; ثعلب سريع ٣٤٥; तेज़ लोमड़ी; สุนัขจิ้งจอก; 狐狸跳過。キツネは 여우가",
    "\U0001f469\u200d\U0001f467\U0001f3ff \U0001f1e9\U0001f1ea \ufe0f\u200b\ufeff\ufffd \x00\x01\x7f\x85",
    "def f(x):\n    return {'a': [x ** 2]}  # ok\n\n\nint main() { return 0x1F && !b->c; }\n</div>\n---\n***",
)


@dataclass(frozen=True, slots=True)
class CompiledTokenizer:
    facts: dict[str, Any]
    tables: Bytes


def can_compile(library: LibraryEncoder) -> bool:
    """Whether words are made of the 256 byte-level symbols and of nothing else; takes no time to tell."""
    fast = library.fast
    model = fast.model
    if type(model).__name__ != "BPE" or model.byte_fallback or model.dropout or model.unk_token is not None:
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    before = _steps(part_json(fast.pre_tokenizer), "pretokenizers")
    if not before or before[-1].get("type") != "ByteLevel":
        return False
    after = {step.get("type") for step in _steps(part_json(fast.post_processor), "processors")}
    # Others hold ids as well, in ways of their own, and belong to models that complete no text.
    return after <= {"ByteLevel", "TemplateProcessing"}


def compile_tokenizer(content: bytes, library: LibraryEncoder) -> CompiledTokenizer | None:
    """None where `can_compile` is false, a byte has no token or ids are not distinct."""
    if not can_compile(library):
        return None
    document = json.loads(content)
    model = document["model"]
    ids: dict[str, int] = model["vocab"]
    symbols = [symbol for symbol, _ in sorted(byte_level_alphabet().items(), key=lambda item: item[1])]
    if not all(symbol in ids for symbol in symbols) or len(set(ids.values())) < len(ids):
        return None
    if max(ids.values()) >= SPARSE * len(ids):
        return None
    vocabulary = ByteLevelVocabulary(ids, _merges(model["merges"]), symbols, bool(model.get("ignore_merges")))
    skeleton, others = _skeleton(document, symbols, library)
    added = library.fast.get_added_tokens_decoder().items()
    facts = {
        "skeleton": skeleton,
        "decoder": library.decoder,
        "num_tokens": library.num_tokens,
        "num_tokens_with_added": library.num_tokens_with_added,
        # The library writes a token by its id in normalized form, and knows its id by the form it was given.
        "texts": [[token_id, library.token(token_id)] for token_id, _ in added],
        "ids": [[token.content, token_id] for token_id, token in added],
        "special_ids": [token_id for token_id, token in added if token.special],
    }
    return CompiledTokenizer(facts, pack_pairs(vocabulary, others))


def _steps(part: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    """The steps of a part, sequences within sequences laid out."""
    if part is None:
        return []
    if part.get("type") == "Sequence":
        return [step for inner in part[key] for step in _steps(inner, key)]
    return [part]


def _merges(merges: list[Any]) -> list[tuple[str, str]]:
    """Lists of two, or in older files one text with a space between them (and perhaps a version first)."""
    pairs = [
        merge.split(" ") if isinstance(merge, str) else merge for merge in merges if not _is_version(merge)
    ]
    return [(left, right) for left, right in pairs]


def _is_version(merge: object) -> bool:
    return isinstance(merge, str) and merge.startswith("#version")


def _skeleton(document: Mapping[str, Any], symbols: list[str], library: LibraryEncoder) -> tuple[str, Ids]:
    """The skeleton as JSON, and the ids of its symbols past the bytes: added tokens, then a template's."""
    added = [dict(token, id=NUM_BYTES + i) for i, token in enumerate(document["added_tokens"])]
    skeleton = {
        **document,
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "post_processor": None,
        "model": {"type": "BPE", "vocab": {symbol: i for i, symbol in enumerate(symbols)}, "merges": []},
    }
    real = {}
    for skeleton_id, token in FastTokenizer.from_str(json.dumps(skeleton)).get_added_tokens_decoder().items():
        if skeleton_id >= NUM_BYTES:  # below: a byte that is an added token too, and has the same id as both
            real[skeleton_id] = library.token_id(token.content)
    others = np.full(max(real, default=NUM_BYTES - 1) + 1 - NUM_BYTES, NO_TOKEN, dtype=np.uint32)
    for skeleton_id, token_id in real.items():
        others[skeleton_id - NUM_BYTES] = NO_TOKEN if token_id is None else token_id
    skeleton["post_processor"] = document.get("post_processor")
    in_templates: list[int] = []
    for step in _steps(document.get("post_processor"), "processors"):
        for special in step.get("special_tokens", {}).values():
            begin = NUM_BYTES + len(others) + len(in_templates)
            in_templates += special["ids"]
            special["ids"] = list(range(begin, begin + len(special["ids"])))
    return json.dumps(skeleton), np.concatenate([others, np.array(in_templates, dtype=np.uint32)])


def find_difference(library: LibraryEncoder, compiled: Encoder) -> str | None:
    """The first text that the two encode differently, or the token that they call differently."""
    added = library.fast.get_added_tokens_decoder()
    top = max(library.num_tokens_with_added, max(added, default=0) + 1)
    texts = [library.token(token_id) or "" for token_id in range(top)]
    for i in {*range(0, top, 97), *added, top}:
        text = texts[i] if i < top else ""
        if compiled.token(i) != library.token(i) or compiled.token_id(text) != library.token_id(text):
            return f"token {i}"
    for text in _probes(texts, [token.content for token in added.values()]):
        for add_special in (True, False) if len(text) < CHUNK else (False,):
            if compiled.encode(text, add_special=add_special) != library.encode(
                text, add_special=add_special
            ):
                return f"the text {text[:60]!r}..."
    return None


def _probes(tokens: list[str], added: list[str]) -> Iterator[str]:
    """Tokens as lines of their own (of a large vocabulary every other one, or fewer), then what tokenizers
    stumble over.
    """
    stand_ins = {ord(symbol): chr(byte) for symbol, byte in byte_level_alphabet().items()}
    step = 1 + sum(map(len, tokens)) // MAX_LINES
    as_bytes = "\n".join(tokens[::step]).translate(stand_ins).encode("latin-1", "replace")
    lines = as_bytes.decode("utf-8", "replace")
    for begin in range(0, len(lines), CHUNK):
        yield lines[begin : begin + CHUNK]
    yield from SAMPLES
    yield from ("", " ", "\n", "a")
    chance = random.Random(1)
    for size in (1, 7, 100, 1000):
        yield chance.randbytes(size).decode("utf-8", "replace")
        yield "".join(chance.choices(lines or " ", k=size))
        yield "".join(chance.choices([*added, *SAMPLES, " ", "x", "\n", ""], k=size // 10 + 3))
    yield "x" * 1000 + "".join(chance.choices("aeiounrst", k=3000))
    yield "".join(f"{token} {token}{token}x{token}\n" for token in added[:500])
