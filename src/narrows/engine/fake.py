"""A runner and a tokenizer without a model, for tests of everything above the runner.

FakeRunner draws each token from a hash of all tokens before it, which it reads back through the KV blocks: a
wrong block table, position or preemption gives another answer. It honours temperature, seed, logit_bias,
min_tokens and logprobs, and can be slow, held, made to fail. ByteTokenizer's tokens are the 256 bytes and
four special ones.
"""

from __future__ import annotations

import math
import random
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from hashlib import blake2b

from narrows.engine.step import (
    RunnerInfo,
    Sampled,
    SamplingParams,
    SequenceResult,
    SequenceStep,
    Step,
    StepResult,
    TokenLogprob,
)
from narrows.errors import InternalError

EOS_ID, BOS_ID, USER_ID, ASSISTANT_ID = 256, 257, 258, 259
VOCAB_SIZE = 260
LETTERS = (*b"abcdefghijklmnopqrstuvwxyz ,.", EOS_ID)
ALL_BYTES = (*range(256), EOS_ID)
UNLIKELY = -50.0  # the logit of a token outside the alphabet
ROLES = {"system": BOS_ID, "user": USER_ID, "assistant": ASSISTANT_ID}
MARKERS = {"<|eos|>": EOS_ID, "<|bos|>": BOS_ID, "<|user|>": USER_ID, "<|assistant|>": ASSISTANT_ID}

# (all tokens so far, number of this output token) -> its id, or None: drawn as usual
Chooser = Callable[[tuple[int, ...], int], int | None]


class ByteTokenizer:
    """One token a byte. The conversation template: a role token before each message."""

    strips_leading_space = False
    vocab_size = VOCAB_SIZE
    eos_ids = frozenset({EOS_ID})

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Bytes of the text; the names of special tokens stand for them, as render_chat writes them."""
        ids = [BOS_ID] if add_special else []
        data = text.encode("utf-8", "surrogatepass")
        position = 0
        while position < len(data):
            marker = next((m for m in MARKERS if data.startswith(m.encode(), position)), None)
            ids.append(data[position] if marker is None else MARKERS[marker])
            position += 1 if marker is None else len(marker)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes((token_id,)) if 0 <= token_id < 256 else b""

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        names = {token_id: name for name, token_id in MARKERS.items()}
        turns = [names[ROLES[message["role"]]] + message["content"] for message in messages]
        return "".join([*turns, names[ASSISTANT_ID]])


def reply_with(text: str | bytes) -> Chooser:
    """A chooser that says `text` and ends."""
    data = text.encode() if isinstance(text, str) else text
    return lambda _, index: data[index] if index < len(data) else EOS_ID


class _Sampler:
    """A request's sampling state: like a native one it counts its own tokens."""

    def __init__(self, params: SamplingParams, num_prompt: int) -> None:
        self.params = params
        self.num_prompt = num_prompt
        self.num_output = 0


class FakeRunner:
    """A Runner. Attributes may be changed from a test while an engine thread runs it."""

    def __init__(
        self,
        *,
        num_blocks: int = 256,
        block_size: int = 4,
        max_context: int = 512,
        max_step_tokens: int = 128,
        alphabet: tuple[int, ...] = LETTERS,
        choose: Chooser | None = None,
    ) -> None:
        self.step_s = 0.0  # sleeps so long in every step
        self.gate = threading.Event()  # a step waits for it
        self.gate.set()
        self.failure: BaseException | None = None  # raised by the next step
        self.poison_id: int | None = None  # logits after a text with this token are not finite
        self.params: list[SamplingParams] = []  # of every request added
        self.num_steps = 0
        self.is_closed = False
        self._alphabet = alphabet
        self._choose = choose
        self._samplers: dict[int, _Sampler] = {}
        self._slots: list[int | None] = [None] * (num_blocks * block_size)
        self._info = RunnerInfo(
            vocab_size=VOCAB_SIZE,
            max_context=max_context,
            block_size=block_size,
            num_blocks=num_blocks,
            max_step_tokens=max_step_tokens,
            weight_bytes_per_step=1000,
            kv_bytes_per_token=4,
            description={"runner": "fake"},
        )

    @property
    def info(self) -> RunnerInfo:
        return self._info

    @property
    def num_samplers(self) -> int:
        return len(self._samplers)

    def add(self, request_id: int, params: SamplingParams, prompt_ids: tuple[int, ...]) -> None:
        if request_id in self._samplers:
            raise InternalError(f"request {request_id} was added twice")
        self.params.append(params)
        self._samplers[request_id] = _Sampler(params, len(prompt_ids))

    def remove(self, request_id: int) -> None:
        self._samplers.pop(request_id, None)

    def close(self) -> None:
        self.is_closed = True

    def run(self, step: Step) -> StepResult:
        self.gate.wait()
        if self.step_s:
            time.sleep(self.step_s)
        if self.failure is not None:
            raise self.failure
        self._check(step)
        self.num_steps += 1
        for sequence in step.sequences:
            self._write(sequence)
        return StepResult(tuple(self._result(sequence) for sequence in step.sequences))

    def _check(self, step: Step) -> None:
        if not 0 < step.num_tokens <= self._info.max_step_tokens:
            raise InternalError(f"a step of {step.num_tokens} tokens")
        blocks = [block_id for sequence in step.sequences for block_id in sequence.block_ids]
        if len(set(blocks)) != len(blocks):
            raise InternalError("two sequences share a block")
        for sequence in step.sequences:
            end = sequence.start + len(sequence.token_ids)
            if not sequence.token_ids or end > len(sequence.block_ids) * self._info.block_size:
                raise InternalError(
                    f"request {sequence.request_id}: {end} tokens in {len(sequence.block_ids)} blocks"
                )
            if end > self._info.max_context or sequence.request_id not in self._samplers:
                raise InternalError(f"request {sequence.request_id} is too long or unknown")

    def _slot(self, sequence: SequenceStep, position: int) -> int:
        block, place = divmod(position, self._info.block_size)
        return sequence.block_ids[block] * self._info.block_size + place

    def _write(self, sequence: SequenceStep) -> None:
        for index, token_id in enumerate(sequence.token_ids):
            self._slots[self._slot(sequence, sequence.start + index)] = token_id

    def _history(self, sequence: SequenceStep, length: int) -> tuple[int, ...]:
        tokens = tuple(self._slots[self._slot(sequence, position)] for position in range(length))
        known = tuple(token for token in tokens if token is not None)
        if len(known) != length:
            raise InternalError(f"request {sequence.request_id} reads keys that were never written")
        return known

    def _result(self, sequence: SequenceStep) -> SequenceResult:
        targets = tuple(
            self._target(sequence, sequence.start + row + 1, token_id) if token_id >= 0 else None
            for row, token_id in enumerate(sequence.targets)
        )
        drawn = self._draws(sequence) if sequence.sample else ()
        return SequenceResult(sequence.request_id, drawn, targets)

    def _target(
        self, sequence: SequenceStep, length: int, token_id: int
    ) -> tuple[TokenLogprob, tuple[TokenLogprob, ...]]:
        logprobs = _logprobs(self._logits(self._history(sequence, length), token_id))
        return TokenLogprob(token_id, logprobs[token_id]), _best(logprobs, sequence.target_top)

    def _draws(self, sequence: SequenceStep) -> tuple[Sampled, ...]:
        """One token, and one more for every guess that turns out right."""
        num_certain = len(sequence.token_ids) - sequence.num_draft
        drawn = [self._sample(sequence, sequence.start + num_certain)]
        for index, guess in enumerate(sequence.token_ids[num_certain:], start=1):
            if drawn[-1].token_id != guess:
                break
            drawn.append(self._sample(sequence, sequence.start + num_certain + index))
        return tuple(drawn)

    def _sample(self, sequence: SequenceStep, length: int) -> Sampled:
        history = self._history(sequence, length)
        sampler = self._samplers[sequence.request_id]
        params = sampler.params
        if self.poison_id in history:
            return Sampled(-1)
        chosen = self._choose(history, sampler.num_output) if self._choose is not None else None
        logits = self._logits(history, chosen)
        if chosen is None:
            chosen = _draw(logits, params, sampler.num_output)
        sampler.num_output += 1
        if params.top_logprobs is None:
            return Sampled(chosen)
        logits.setdefault(chosen, UNLIKELY)  # a biased token may lie outside the alphabet
        logprobs = _logprobs(logits)
        return Sampled(chosen, logprobs[chosen], _best(logprobs, params.top_logprobs))

    def _logits(self, history: tuple[int, ...], also: int | None) -> dict[int, float]:
        """Logits over the alphabet, and `also`, that are a function of the history alone."""
        source = random.Random(blake2b(array("q", history).tobytes(), digest_size=8).digest())
        logits = {token_id: 8.0 * source.random() for token_id in self._alphabet}
        if also is not None:
            logits.setdefault(also, 4.0)
        return logits


def _logprobs(logits: dict[int, float]) -> dict[int, float]:
    total = math.log(sum(map(math.exp, logits.values())))
    return {token_id: logit - total for token_id, logit in logits.items()}


def _best(logprobs: dict[int, float], count: int) -> tuple[TokenLogprob, ...]:
    ranked = sorted(logprobs.items(), key=lambda item: (-item[1], item[0]))
    return tuple(TokenLogprob(token_id, logprob) for token_id, logprob in ranked[:count])


def _draw(logits: dict[int, float], params: SamplingParams, index: int) -> int:
    """The token of output `index`: a function of the logits, the seed and the index alone."""
    scores = dict(logits)
    for token_id, bias in params.logit_bias:
        scores[token_id] = scores.get(token_id, UNLIKELY) + bias
    if index < params.min_tokens:
        scores = {
            token_id: score for token_id, score in scores.items() if token_id not in params.stop_token_ids
        }
    if params.temperature > 0:
        source = random.Random(f"{params.seed}/{index}")
        # Gumbel's trick: the maximum of score / temperature + noise is a draw from the softmax.
        scores = {
            token_id: score / params.temperature - math.log(-math.log(source.random() or 1e-12))
            for token_id, score in sorted(scores.items())
        }
    return max(scores, key=lambda token_id: (scores[token_id], -token_id))
