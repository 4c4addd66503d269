"""A request: what the caller asks (GenerationRequest), the checks on it, its state in the engine (Request).

One counter replaces phases: `num_computed` catches up with `num_total`. Knows nothing of text and tensors.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Literal

from narrows.engine.step import SamplingParams, TokenLogprob
from narrows.errors import ContextTooLong, InvalidRequest

FinishReason = Literal["stop", "length", "abort"]

MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_STOP_TOKENS = 256
MAX_SEED = (1 << 64) - 1
# Below this a temperature draws the most likely token anyway, and logits / temperature would overflow
# float32.
GREEDY_TEMPERATURE = 1e-4
LEAST_TOP_P = 1e-6  # below it only the most likely token is left, and float32 ends somewhere

_FLOAT_RANGES = (
    ("temperature", 0.0, 100.0),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("repetition_penalty", 0.01, 100.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate. A caller that wants n answers submits n requests, each with its own seed."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None  # None: as many as the context holds; 0: only read the prompt
    stop: tuple[str, ...] = ()  # bounded by stopper.py; not looked for in the first min_tokens tokens
    include_stop_text: bool = False  # keep the stop string that ended the answer
    ignore_eos: bool = False  # the model's own end tokens end nothing; sampling.stop_token_ids still do
    # The answer stands by itself, as a turn of a conversation does: a sentencepiece model's first space is
    # dropped. Otherwise it goes on where the prompt ends, and prompt + answer is one text.
    is_turn: bool = False
    prompt_logprobs: int | None = None  # None: no; n >= 0: the prompt tokens' logprobs and the n best


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a request is checked against."""

    vocab_size: int
    max_context: int
    eos_ids: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class Request:
    """A request under way. The scheduler owns its counters and blocks, the engine its times."""

    request_id: int
    num_prompt: int
    params: SamplingParams  # as the runner gets them: end tokens included
    max_tokens: int
    eos_ids: frozenset[int]  # of params.stop_token_ids: the model's own, which give no stop_reason
    token_ids: list[int]  # prompt, then output
    prompt_top: int | None = None
    prompt_logprobs: list[tuple[TokenLogprob, tuple[TokenLogprob, ...]]] = field(default_factory=list)
    num_computed: int = 0  # tokens whose keys and values lie in the blocks
    block_ids: tuple[int, ...] = ()
    num_preempted: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    arrived_s: float = 0.0
    admitted_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None

    @property
    def num_total(self) -> int:
        return len(self.token_ids)

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.num_prompt


def make_request(request_id: int, asked: GenerationRequest, limits: RequestLimits) -> Request:
    """Checks everything about a request but its stop strings; raises InvalidRequest or ContextTooLong."""
    _check_prompt(asked.prompt_ids, limits)
    max_tokens = _checked_max_tokens(asked.max_tokens, num_prompt=len(asked.prompt_ids), limits=limits)
    params = validate_sampling(asked.sampling, vocab_size=limits.vocab_size)
    if params.min_tokens > max_tokens:
        raise InvalidRequest(
            f"min_tokens is {params.min_tokens} but at most {max_tokens} tokens can come; lower it",
            param="min_tokens",
        )
    if asked.prompt_logprobs is not None:
        _check_int("prompt_logprobs", asked.prompt_logprobs, least=0, most=MAX_TOP_LOGPROBS)
    eos_ids = frozenset() if asked.ignore_eos else limits.eos_ids.difference(params.stop_token_ids)
    return Request(
        request_id=request_id,
        num_prompt=len(asked.prompt_ids),
        params=replace(params, stop_token_ids=(*params.stop_token_ids, *sorted(eos_ids))),
        max_tokens=max_tokens,
        eos_ids=eos_ids,
        token_ids=list(asked.prompt_ids),
        prompt_top=None if asked.prompt_logprobs is None else min(asked.prompt_logprobs, limits.vocab_size),
    )


def validate_sampling(params: SamplingParams, *, vocab_size: int) -> SamplingParams:
    """The same parameters in the form runners take; InvalidRequest names the field that is wrong."""
    for name, least, most in _FLOAT_RANGES:
        _check_float(name, getattr(params, name), least=least, most=most)
    if params.top_p == 0:
        raise InvalidRequest("top_p is 0; it must be above 0 and at most 1 (1: off)", param="top_p")
    _check_int("top_k", params.top_k, least=0, most=None)
    _check_int("seed", params.seed, least=0, most=MAX_SEED)
    _check_int("min_tokens", params.min_tokens, least=0, most=None)
    if params.top_logprobs is not None:
        _check_int("top_logprobs", params.top_logprobs, least=0, most=MAX_TOP_LOGPROBS)
    _check_count("logit_bias", params.logit_bias, MAX_LOGIT_BIAS)
    for token_id, bias in params.logit_bias:
        _check_int("logit_bias", token_id, least=0, most=vocab_size - 1)
        _check_float("logit_bias", bias, least=-100.0, most=100.0)
    _check_count("stop_token_ids", params.stop_token_ids, MAX_STOP_TOKENS)
    for token_id in params.stop_token_ids:
        _check_int("stop_token_ids", token_id, least=0, most=vocab_size - 1)
    return replace(
        params,
        top_k=min(params.top_k, vocab_size),
        top_p=max(params.top_p, LEAST_TOP_P),
        top_logprobs=None if params.top_logprobs is None else min(params.top_logprobs, vocab_size),
        temperature=0.0 if params.temperature < GREEDY_TEMPERATURE else params.temperature,
    )


def _check_prompt(prompt_ids: tuple[int, ...], limits: RequestLimits) -> None:
    if not prompt_ids:
        raise InvalidRequest("the prompt has no tokens; give at least one", param="prompt")
    if len(prompt_ids) > limits.max_context:
        raise ContextTooLong(num_prompt=len(prompt_ids), max_context=limits.max_context, param="prompt")
    # Whole-tuple operations in C: a prompt may have 100,000 tokens and this may run in an event loop.
    if set(map(type, prompt_ids)) != {int}:
        raise InvalidRequest("the prompt's token ids must be whole numbers", param="prompt")
    if min(prompt_ids) < 0 or max(prompt_ids) >= limits.vocab_size:
        wrong = min(prompt_ids) if min(prompt_ids) < 0 else max(prompt_ids)
        raise InvalidRequest(
            f"the prompt has the token id {wrong}; this model's ids run from 0 to {limits.vocab_size - 1}",
            param="prompt",
        )


def _checked_max_tokens(asked: int | None, *, num_prompt: int, limits: RequestLimits) -> int:
    room = limits.max_context - num_prompt
    if asked is None:
        if room < 1:
            raise ContextTooLong(num_prompt=num_prompt, max_context=limits.max_context, param="prompt")
        return room
    _check_int("max_tokens", asked, least=0, most=None)
    if asked == 0 or asked <= room:
        return asked
    if room < 1:
        raise ContextTooLong(num_prompt=num_prompt, max_context=limits.max_context, param="prompt")
    raise InvalidRequest(
        f"max_tokens is {_shown(asked)} but the prompt has {num_prompt} tokens and this model's context "
        f"holds {limits.max_context}, prompt and answer together; ask for at most {room}, or leave it out",
        param="max_tokens",
    )


def _check_int(name: str, value: object, *, least: int, most: int | None) -> None:
    if type(value) is not int:
        raise InvalidRequest(f"{name} must be a whole number", param=name)
    if value < least or (most is not None and value > most):
        span = f"from {least} to {most}" if most is not None else f"at least {least}"
        raise InvalidRequest(f"{name} is {_shown(value)}; it must be {span}", param=name)


def _check_float(name: str, value: object, *, least: float, most: float) -> None:
    if type(value) not in (int, float):
        raise InvalidRequest(f"{name} must be a number", param=name)
    assert isinstance(value, int | float)
    # The comparisons come first: math.isfinite overflows on integers beyond a float.
    if not least <= value <= most or not math.isfinite(value):
        raise InvalidRequest(f"{name} is {_shown(value)}; it must be from {least:g} to {most:g}", param=name)


def _check_count(name: str, values: Collection[object], most: int) -> None:
    if len(values) > most:
        raise InvalidRequest(f"{name} has {len(values)} entries; at most {most} are allowed", param=name)


def _shown(value: float) -> str:
    """A number as a message shows it: Python refuses to print integers of more than 4300 digits."""
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of more than 128 bits"
    return str(value)
