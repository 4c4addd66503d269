"""Turns drawn tokens into released text and token records, cut together.

Text is released up to the longest end of it that may begin a stop string; a token is released when the text
where it begins is. At a stop string the text ends where the string begins (or, if asked, where it ends), and
tokens that begin at or after that place are dropped. Inputs: Sampled; outputs: Chunk parts. Knows no requests
and no threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from narrows.engine.client import TokenCandidate, TokenRecord
from narrows.engine.detokenize import Detokenizer, Vocabulary
from narrows.engine.step import Sampled, TokenLogprob
from narrows.engine.stopper import StopAutomaton


@dataclass(frozen=True, slots=True)
class OutputRules:
    """How one request's text ends."""

    automaton: StopAutomaton | None = None
    include_stop_text: bool = False
    begins_text: bool = True  # where decoding drops a text's first space, this one's is dropped
    min_tokens: int = 0  # so many tokens' text is not searched for stop strings


class OutputText:
    """The text of one request. `feed` and `finish` give what may be shown; `stopped_by` says it has ended."""

    __slots__ = (
        "_detokenizer",
        "_held_text",
        "_held_tokens",
        "_num_released",
        "_num_seen",
        "_num_tokens",
        "_rules",
        "_state",
        "_vocabulary",
        "stopped_by",
    )

    def __init__(self, vocabulary: Vocabulary, rules: OutputRules) -> None:
        self.stopped_by: str | None = None
        self._vocabulary = vocabulary
        self._rules = rules
        strips = vocabulary.strips_leading_space and rules.begins_text
        self._detokenizer = Detokenizer(strip_leading_space=strips)
        self._state = 0  # of the automaton
        self._held_text = ""
        self._held_tokens: list[TokenRecord] = []  # oldest first
        self._num_released = 0  # characters
        self._num_seen = 0  # characters, the held ones included
        self._num_tokens = 0

    def feed(self, sampled: Sampled) -> tuple[str, tuple[TokenRecord, ...]]:
        """Takes a token in; returns what is released."""
        data = self._vocabulary.token_bytes(sampled.token_id)
        top = _candidates(sampled.top, self._vocabulary) if sampled.top else ()
        self._held_tokens.append(TokenRecord(sampled.token_id, data, self._num_seen, sampled.logprob, top))
        self._num_tokens += 1
        text = self._detokenizer.feed(data)
        if not text:
            return "", ()
        num_held = self._take_in(text)
        return self._release(self._num_seen - num_held)

    def finish(self) -> tuple[str, tuple[TokenRecord, ...]]:
        """The answer has ended without a stop string: everything held is released."""
        text = self._detokenizer.finish()
        if text:
            self._take_in(text)
        released, tokens = self._release(self._num_seen)
        if self.stopped_by is None:
            tokens += tuple(self._held_tokens)
            self._held_tokens.clear()
        return released, tokens

    def _take_in(self, text: str) -> int:
        """Appends `text` to the held one, or its part before the cut. Returns the characters to hold back."""
        automaton = self._rules.automaton
        if automaton is None or self._num_tokens <= self._rules.min_tokens:
            self._held_text += text
            self._num_seen += len(text)
            return 0
        self._state, match = automaton.feed(self._state, text)
        if match is None:
            self._held_text += text
            self._num_seen += len(text)
            return automaton.num_held(self._state)
        self.stopped_by = match.stop
        num_cut = 0 if self._rules.include_stop_text else len(match.stop)
        end = len(self._held_text) + match.end - num_cut
        self._num_seen = self._num_released + end
        self._held_text = (self._held_text + text)[:end]
        return 0

    def _release(self, end: int) -> tuple[str, tuple[TokenRecord, ...]]:
        """Text up to character `end` of the answer and the tokens that begin before it."""
        count = end - self._num_released
        if count <= 0:
            return "", ()
        text, self._held_text = self._held_text[:count], self._held_text[count:]
        self._num_released = end
        held = self._held_tokens
        if not held or held[-1].offset < end:
            self._held_tokens = []
            return text, tuple(held)
        num_tokens = next(index for index, token in enumerate(held) if token.offset >= end)
        self._held_tokens = held[num_tokens:]
        return text, tuple(held[:num_tokens])


def prompt_records(
    prompt_ids: list[int],
    logprobs: list[tuple[TokenLogprob, tuple[TokenLogprob, ...]]],
    vocabulary: Vocabulary,
) -> tuple[TokenRecord, ...]:
    """The prompt's tokens with their logprobs, the first without; offsets count in the prompt's text."""
    detokenizer = Detokenizer(strip_leading_space=vocabulary.strips_leading_space)
    offset = 0
    records = []
    for token_id, entry in zip(prompt_ids, [None, *logprobs], strict=True):
        data = vocabulary.token_bytes(token_id)
        logprob, top = (None, ()) if entry is None else (entry[0].logprob, _candidates(entry[1], vocabulary))
        records.append(TokenRecord(token_id, data, offset, logprob, top))
        offset += len(detokenizer.feed(data))
    return tuple(records)


def _candidates(top: tuple[TokenLogprob, ...], vocabulary: Vocabulary) -> tuple[TokenCandidate, ...]:
    return tuple(
        TokenCandidate(item.token_id, vocabulary.token_bytes(item.token_id), item.logprob) for item in top
    )
