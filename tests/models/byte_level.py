"""Byte-level tokenizers of every kind, trained in a moment, and the library beside the compiled form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as FastTokenizer

from narrows.models.compiled_encoder import CompiledEncoder, open_encoder
from narrows.models.encoder import LibraryEncoder

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and then the other dogs jump over the fox again.",
    "Größe und Straße, déjà vu, naïve façade; быстрая лиса перепрыгивает; 狐狸跳過狗 12345 67890",
    "def jump(fox):\n    return [dog for dog in fox if dog is not None]\n\n\n# the end of the fox\t\r\n",
]
PIECES = [
    *CORPUS,
    "<s>",
    "</s>",
    " <tool> ",
    "  MASK  ",
    "mask",
    "whole",
    "wholes",
    "e\u0301",
    "É",
    "\u1e9b\u0323",
]
PIECES += [
    " ",
    "\n",
    "  \n ",
    "\u00a0",
    "\u200d",
    "\U0001f469\u200d\U0001f467",
    "\x00",
    "\ufffd",
    "\u212b",
    "''s",
]
SPLIT = Regex(r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
ADDED = [
    AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False),
    AddedToken("MASK", lstrip=True, normalized=True),
    AddedToken("whole", single_word=True, normalized=False),
    AddedToken("É\u0301x", normalized=True),
    AddedToken("!", normalized=False),  # a byte of the vocabulary as well
]


def trained(pre_tokenizer: pre_tokenizers.PreTokenizer) -> FastTokenizer:
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizer
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    fast.train_from_iterator(CORPUS * 3, trainer)
    return fast


def plain() -> FastTokenizer:
    fast = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    fast.post_processor = processors.ByteLevel(trim_offsets=True)
    fast.add_special_tokens(["<s>", "</s>"])
    return fast


def rich() -> FastTokenizer:
    fast = trained(pre_tokenizers.ByteLevel(add_prefix_space=True))
    fast.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    fast.add_special_tokens(["<s>", "</s>"])
    fast.add_tokens(ADDED)
    special = [(token, fast.token_to_id(token)) for token in ("<s>", "</s>")]
    template = processors.TemplateProcessing(single=["<s>", "$A", "</s>"], special_tokens=special)
    fast.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return fast


def split() -> FastTokenizer:
    parts = [
        pre_tokenizers.Split(SPLIT, behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    fast = trained(pre_tokenizers.Sequence(parts))
    fast.normalizer = normalizers.NFC()
    fast.add_tokens(ADDED)
    fast.add_special_tokens(["<s>", "the"])  # the second one is in the vocabulary
    the = fast.token_to_id("h")  # a template may name a token that is not an added one
    fast.post_processor = processors.TemplateProcessing(single=["h", "$A"], special_tokens=[("h", the)])
    return fast


def whole_words() -> FastTokenizer:
    """Words that no merge makes any more, but that are tokens; and the old form of merges."""
    document = json.loads(plain().to_str())
    merges = document["model"]["merges"]
    kept = [merge for i, merge in enumerate(merges) if i % 3]
    document["model"] |= {"merges": [" ".join(merge) for merge in kept], "ignore_merges": True}
    return FastTokenizer.from_str(json.dumps(document))


MAKERS: dict[str, Callable[[], FastTokenizer]] = {
    "plain": plain,
    "rich": rich,
    "split": split,
    "whole_words": whole_words,
}


class Both:
    """A folder, the library's encoder and the compiled one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.library = open_encoder(folder, min_bytes=0)
        self.compiled = open_encoder(folder, min_bytes=0)
        assert isinstance(self.library, LibraryEncoder)
        assert isinstance(self.compiled, CompiledEncoder)

    def check(self, text: str) -> None:
        for add_special in (True, False):
            expected = self.library.encode(text, add_special=add_special)
            assert self.compiled.encode(text, add_special=add_special) == expected
