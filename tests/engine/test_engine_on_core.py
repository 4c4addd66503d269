"""The engine on the native core and the embedded model: neither batches nor preemption change an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from engine_cases import Answer, collect

from narrows.engine.client import GenerationRequest, SamplingParams
from narrows.engine.load import LoadedEngine, load_engine

pytest.importorskip("narrows._core", reason="the native core is not built")

from narrows.runners.options import CpuOptions
from narrows.runners.plan import WeightsKind

PROMPTS = [
    "Once upon a time",
    "The cat sat",
    "Tim and Ben went to the park",
    "A big red ball is",
    "Mom said",
] * 3


def requests_of(loaded: LoadedEngine) -> list[GenerationRequest]:
    base = SamplingParams(
        temperature=0.8, top_logprobs=2, repetition_penalty=1.1, presence_penalty=0.2, top_k=50
    )
    return [
        GenerationRequest(
            tuple(loaded.tokenizer.encode(prompt)),
            replace(base, seed=index),
            max_tokens=48,
            stop=("the dog", "\n"),
            prompt_logprobs=1,
        )
        for index, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture(scope="module", params=["auto", "q4"])  # q4: prompts attend in integers, answers in floats
def weights(request: pytest.FixtureRequest) -> WeightsKind:
    kind: WeightsKind = request.param
    return kind


@pytest.fixture(scope="module")
def loaded(weights: WeightsKind) -> Iterator[LoadedEngine]:
    made = load_engine(options=CpuOptions(weights=weights))
    yield made
    made.client.close()


@pytest.fixture(scope="module")
def alone(loaded: LoadedEngine) -> list[Answer]:
    return [collect(loaded.client.submit(request)) for request in requests_of(loaded)]


def test_answers_in_a_batch_are_those_of_lone_requests(loaded: LoadedEngine, alone: list[Answer]) -> None:
    streams = [loaded.client.submit(request) for request in requests_of(loaded)]
    assert [collect(stream).gist for stream in streams] == [answer.gist for answer in alone]


def test_preemption_changes_no_token_and_no_logprob(
    weights: WeightsKind, loaded: LoadedEngine, alone: list[Answer]
) -> None:
    options = CpuOptions(weights=weights, num_blocks=6, max_context=64, max_step_tokens=32)
    small = load_engine(options=options)
    streams = [small.client.submit(request) for request in requests_of(loaded)]
    answers = [collect(stream).gist for stream in streams]
    stats = small.client.stats()
    small.client.close()
    assert stats.preempted_total > 0
    assert stats.num_used_blocks == 0
    assert answers == [answer.gist for answer in alone]


def test_streamed_text_is_the_tokens_decoded_at_once(loaded: LoadedEngine, alone: list[Answer]) -> None:
    for answer in alone:
        if answer.finish_reason == "length":
            assert answer.text == loaded.tokenizer.decode(answer.token_ids)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_p=5e-324),
        SamplingParams(top_p=1e-30, temperature=100.0),
        SamplingParams(temperature=5e-324),
        SamplingParams(temperature=1e-4, logit_bias=((5, 100.0), (6, -100.0))),
        SamplingParams(min_p=1.0, top_k=1),
        SamplingParams(min_p=5e-324, top_k=10**30),
        SamplingParams(repetition_penalty=0.01, presence_penalty=-2.0, frequency_penalty=2.0),
        SamplingParams(repetition_penalty=100.0, temperature=100.0),
        SamplingParams(seed=(1 << 64) - 1, min_tokens=4, stop_token_ids=tuple(range(256))),
        SamplingParams(top_logprobs=20, logit_bias=tuple((index, -100.0) for index in range(1024))),
    ],
    ids=lambda params: str(params)[15:60],
)
def test_every_value_that_is_allowed_can_be_run(loaded: LoadedEngine, params: SamplingParams) -> None:
    prompt_ids = tuple(loaded.tokenizer.encode("Once upon a time"))
    answer = collect(loaded.client.submit(GenerationRequest(prompt_ids, params, max_tokens=4)))
    assert answer.finish_reason in ("length", "stop")
    loaded.client.check_health()
