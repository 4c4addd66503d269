"""Turns sources into rows of token ids: which story is next, as chat or plain text, packed end to end.

Inputs: sources, a tokenizer, a seed, the run's progress. Outputs: int64 arrays [rows, row_tokens + 1].
Every choice follows from the seed and the small `state`, so a resumed run draws the same next batch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from narrows.demo.train.corpus import Source
from narrows.demo.train.instructions import Turn, make_chat
from narrows.demo.train.tokenizer import ASSISTANT, END_OF_TEXT, END_OF_TURN, USER, token_id

CHAT_SHARE = 0.5
FRESH_ROW_SHARE = 0.15


class BatchStream:
    """An endless stream of batches; each source is walked in shuffled epochs, sources are drawn by weight."""

    def __init__(self, sources: Sequence[Source], tokenizer: Tokenizer, seed: int) -> None:
        self._sources = list(sources)
        self._tokenizer = tokenizer
        self._seed = seed
        self._end_of_text = token_id(tokenizer, END_OF_TEXT)
        self._drawn = [0] * len(self._sources)
        self._batches = 0
        self._orders: dict[int, tuple[int, list[int]]] = {}
        self._left_over: list[int] = []

    def state(self) -> dict[str, Any]:
        """Everything needed to go on from here."""
        return {"drawn": list(self._drawn), "batches": self._batches, "left_over": list(self._left_over)}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._drawn = list(state["drawn"])
        self._batches = int(state["batches"])
        self._left_over = list(state["left_over"])

    def epochs(self) -> dict[str, float]:
        """How often each source has been read so far."""
        return {
            source.name: drawn / len(source.stories)
            for source, drawn in zip(self._sources, self._drawn, strict=True)
        }

    def next_batch(self, rows: int, row_tokens: int, progress: float) -> NDArray[np.int64]:
        """The next rows, one token longer than `row_tokens`: inputs and targets are cut from them."""
        rng = random.Random(f"{self._seed}/{self._batches}")
        weights = [
            source.rule.start_weight + progress * (source.rule.end_weight - source.rule.start_weight)
            for source in self._sources
        ]
        self._batches += 1
        batch = [self._next_row(rng, weights, row_tokens + 1) for _ in range(rows)]
        return np.array(batch, dtype=np.int64)

    def _next_row(self, rng: random.Random, weights: Sequence[float], length: int) -> list[int]:
        row, self._left_over = self._left_over, []
        # A prompt has no end-of-text before it, so some rows begin with a story's first word.
        if rng.random() < FRESH_ROW_SHARE:
            row = []
        while len(row) < length:
            index = rng.choices(range(len(weights)), weights)[0]
            row = row + self._encode(self._next_story(index), rng, self._sources[index].rule.has_instructions)
        # The last token is the next row's first input: every token is a target once.
        self._left_over = row[length - 1 :]
        return row[:length]

    def _next_story(self, index: int) -> str:
        stories = self._sources[index].stories
        epoch, position = divmod(self._drawn[index], len(stories))
        self._drawn[index] += 1
        return stories[self._order(index, epoch)[position]]

    def _order(self, index: int, epoch: int) -> list[int]:
        """The shuffled order of one source in one epoch; only the latest of each source is kept."""
        if self._orders.get(index, (-1, []))[0] != epoch:
            order = list(range(len(self._sources[index].stories)))
            random.Random(f"{self._seed}/{index}/{epoch}").shuffle(order)
            self._orders[index] = (epoch, order)
        return self._orders[index][1]

    def _encode(self, story: str, rng: random.Random, has_instructions: bool) -> list[int]:
        is_chat = has_instructions and rng.random() < CHAT_SHARE
        text = render_chat(make_chat(story, rng)) if is_chat else story
        return [*self._tokenizer.encode(text).ids, self._end_of_text]


def render_chat(turns: Sequence[Turn]) -> str:
    """The same text the chat template makes of these turns."""
    marks = {"user": USER, "assistant": ASSISTANT}
    if turns and turns[0][0] == "system":
        (_, system), (role, text), *others = turns
        turns = [(role, f"{system.strip()}\n{text.strip()}"), *others]
    return "".join(f"{marks[role]}{text.strip()}{END_OF_TURN}" for role, text in turns)
