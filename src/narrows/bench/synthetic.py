"""Texts of a wanted number of tokens, for a server whose tokenizer one cannot see, with prefixes in common or
not.

In: lengths and seeds. Out: texts of common English words. How many words make how many tokens is measured by
asking the server (server.py): a WordRate. What a prompt really came to is in the server's usage, and in the
report.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from narrows.errors import InvalidConfig

# Words that almost every vocabulary holds whole; a story model's too.
WORD_TEXT = """
the a little old big red blue green happy sad fox cat dog bird fish tree house garden river hill sun moon
star rain wind snow day night boy girl mother father friend king queen man woman child ball kite boat book
cake apple bread milk water stone flower leaf door window room bed chair table road town field forest sky
sea and but so then when because with under over near from to in on at was is had saw found made gave took
went came ran sat played looked said asked told knew thought wanted liked loved helped opened closed walked
talked laughed cried very soon again always never one two three four five six many some all her his their
new good kind warm cold
"""
WORDS = tuple(WORD_TEXT.split())
PREFIX_SEED = 7_919  # prefixes are drawn apart from what follows them


@dataclass(frozen=True, slots=True)
class WordRate:
    """Tokens of a prompt of n words: overhead + n x tokens_per_word. `is_measured`: the server was asked."""

    tokens_per_word: float = 1.0
    overhead_tokens: float = 0.0
    is_measured: bool = False

    def words_for(self, num_tokens: float) -> int:
        """At least one; the overhead (template, begin token) counts as part of the prompt."""
        return max(1, round((num_tokens - self.overhead_tokens) / self.tokens_per_word))


@dataclass(frozen=True, slots=True)
class Lengths:
    """A number, or any whole number between two, all alike likely."""

    low: int
    high: int

    @staticmethod
    def parse(text: str, option: str) -> Lengths:
        """ "128" or "64:256". Raises InvalidConfig."""
        parts = text.split(":")
        if len(parts) <= 2 and all(part.isascii() and part.isdigit() for part in parts):
            low, high = int(parts[0]), int(parts[-1])
            if 1 <= low <= high:
                return Lengths(low, high)
        raise InvalidConfig(
            f"{option} {text!r} should be a number of tokens like 128, or LOW:HIGH like 64:256"
        )

    def draw(self, count: int, seed: int) -> list[int]:
        return [int(n) for n in np.random.default_rng(seed).integers(self.low, self.high + 1, count)]


def random_words(count: int, seed: int | tuple[int, ...]) -> str:
    """`count` words; the same seed gives the same ones."""
    picks = np.random.default_rng(seed).integers(0, len(WORDS), count)
    return " ".join(WORDS[pick] for pick in picks)


def text_of_length(num_tokens: int, rate: WordRate, seed: tuple[int, ...]) -> str:
    return random_words(rate.words_for(num_tokens), seed)


def text_with_prefix(
    num_tokens: int, prefix_tokens: int, group: int, rate: WordRate, seed: tuple[int, ...]
) -> str:
    """`prefix_tokens` that all prompts of `group` begin with, then others up to `num_tokens` in all."""
    total = rate.words_for(num_tokens)
    shared = min(total, round(prefix_tokens / rate.tokens_per_word))
    if shared == 0:
        return random_words(total, seed)
    words = [random_words(shared, (PREFIX_SEED, seed[0], group))]
    return " ".join([*words, random_words(total - shared, seed)] if total > shared else words)


def text_of_blocks(
    num_tokens: int, block_ids: tuple[int, ...], block_tokens: int, rate: WordRate, seed: tuple[int, ...]
) -> str:
    """One text per block id, the same for the same id, then others up to `num_tokens` in all."""
    total = rate.words_for(num_tokens)
    per_block = max(1, round(block_tokens / rate.tokens_per_word))
    parts = []
    for block in block_ids[: total // per_block]:
        parts.append(random_words(per_block, (PREFIX_SEED, seed[0], block)))
    rest = total - per_block * len(parts)
    if rest > 0:
        parts.append(random_words(rest, seed))
    return " ".join(parts)
