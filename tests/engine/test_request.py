"""What a request may ask: everything else is refused with the field's name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from narrows.engine.client import GenerationRequest, SamplingParams
from narrows.engine.request import MAX_LOGIT_BIAS, RequestLimits, make_request, validate_sampling
from narrows.errors import ContextTooLong, InvalidConfig, InvalidRequest

LIMITS = RequestLimits(vocab_size=100, max_context=10, eos_ids=frozenset({99}))
HUGE = 10**4000  # beyond every float and machine integer


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -3.0, HUGE, -HUGE, 1e300, "1", None, True])
def test_numbers_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        validate_sampling(replace(SamplingParams(), **{name: value}), vocab_size=100)
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_p", 0.0),
        ("top_k", -1),
        ("top_k", 1.5),
        ("seed", -1),
        ("seed", 1 << 64),
        ("min_tokens", -1),
        ("top_logprobs", 21),
        ("top_logprobs", -1),
        ("logit_bias", ((100, 1.0),)),
        ("logit_bias", ((-1, 1.0),)),
        ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((1, 101.0),)),
        ("logit_bias", ((1, 1.0),) * (MAX_LOGIT_BIAS + 1)),
        ("stop_token_ids", (100,)),
        ("stop_token_ids", (True,)),
        ("stop_token_ids", (1,) * 257),
        ("frequency_penalty", 2.1),
    ],
)
def test_every_field_has_its_range(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        validate_sampling(replace(SamplingParams(), **{name: value}), vocab_size=100)
    assert caught.value.param == name


def test_values_that_mean_off_or_greedy_take_the_form_runners_know() -> None:
    params = validate_sampling(
        SamplingParams(top_k=10**30, temperature=1e-7, top_logprobs=20, top_p=5e-324), vocab_size=8
    )
    assert (params.top_k, params.temperature, params.top_logprobs, params.top_p) == (8, 0.0, 8, 1e-6)


@pytest.mark.parametrize("prompt_ids", [(-1,), (100,), (1, HUGE), (1.5,), ("1",), (True,), (None,)])
def test_wrong_token_ids_are_refused(prompt_ids: tuple) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_request(1, GenerationRequest(prompt_ids, max_tokens=1), LIMITS)
    assert caught.value.param == "prompt"


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no tokens"):
        make_request(1, GenerationRequest(()), LIMITS)


@pytest.mark.parametrize(("num_prompt", "max_tokens"), [(10, None), (11, 0), (10, 1), (5000, None)])
def test_a_prompt_over_the_context_is_refused_with_both_numbers(num_prompt, max_tokens) -> None:
    with pytest.raises(ContextTooLong, match=rf"{num_prompt} .*10") as caught:
        make_request(1, GenerationRequest((1,) * num_prompt, max_tokens=max_tokens), LIMITS)
    assert (caught.value.num_prompt, caught.value.max_context) == (num_prompt, 10)


@pytest.mark.parametrize("max_tokens", [4, 10**9, HUGE])
def test_an_answer_over_the_context_is_refused_with_what_fits(max_tokens: int) -> None:
    with pytest.raises(InvalidRequest, match="at most 3") as caught:
        make_request(1, GenerationRequest((1,) * 7, max_tokens=max_tokens), LIMITS)
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize("max_tokens", [-1, 1.0, True])
def test_max_tokens_is_a_count(max_tokens: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_request(1, GenerationRequest((1,), max_tokens=max_tokens), LIMITS)
    assert caught.value.param == "max_tokens"


def test_without_max_tokens_the_context_is_the_limit() -> None:
    assert make_request(1, GenerationRequest((1,) * 7), LIMITS).max_tokens == 3
    assert make_request(1, GenerationRequest((1,) * 10, max_tokens=0), LIMITS).max_tokens == 0


def test_min_tokens_must_be_able_to_come() -> None:
    with pytest.raises(InvalidRequest, match="min_tokens"):
        make_request(1, GenerationRequest((1,), SamplingParams(min_tokens=4), max_tokens=3), LIMITS)


def test_end_tokens_reach_the_runner_and_ignore_eos_leaves_the_callers_own() -> None:
    asked = GenerationRequest((1,), SamplingParams(stop_token_ids=(5,)), max_tokens=3)
    request = make_request(1, asked, LIMITS)
    assert (request.params.stop_token_ids, request.eos_ids) == ((5, 99), {99})
    request = make_request(1, replace(asked, ignore_eos=True), LIMITS)
    assert (request.params.stop_token_ids, request.eos_ids) == ((5,), frozenset())


def test_settings_out_of_range_are_refused() -> None:
    from narrows.engine.config import EngineConfig

    for name, value in (("max_running", 0), ("max_waiting", -1), ("prefill_chunk", 0), ("max_context", 1)):
        with pytest.raises(InvalidConfig, match=name):
            EngineConfig(**{name: value})


def test_no_more_prompt_logprobs_are_asked_for_than_there_are_tokens() -> None:
    tiny = RequestLimits(vocab_size=8, max_context=10)
    assert make_request(1, GenerationRequest((1,), prompt_logprobs=20), tiny).prompt_top == 8
    assert make_request(1, GenerationRequest((1,)), tiny).prompt_top is None
