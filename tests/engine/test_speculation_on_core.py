"""On the native core: tokens, texts and logprobs with guesses are == those without, on any kind of model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine_cases import Answer, collect
from speculation_cases import verifying_all
from tests.models.real import EMBEDDED, NAMES, real_model
from tests.models.tiny import save_tiny

from narrows.engine.client import EngineStats, GenerationRequest, SamplingParams
from narrows.engine.config import EngineConfig
from narrows.engine.engine import Engine
from narrows.engine.fake import ByteTokenizer
from narrows.engine.load import load_engine
from narrows.engine.worker import EngineWorker

pytest.importorskip("narrows._core", reason="the native core is not built")

from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions

PARAMS = {
    "greedy": SamplingParams(temperature=0.0),
    "greedy with logprobs": SamplingParams(temperature=0.0, top_logprobs=3),
    "sampled": SamplingParams(temperature=0.7, seed=11),
    "sampled with filters": SamplingParams(temperature=0.9, top_k=30, top_p=0.9, min_p=0.02, seed=12),
    "penalties": SamplingParams(
        temperature=0.6,
        repetition_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=0.1,
        seed=13,
        top_logprobs=1,
    ),
    "greedy with penalties": SamplingParams(temperature=0.0, frequency_penalty=0.4, top_logprobs=0),
    "bias": SamplingParams(
        temperature=0.5, seed=14, logit_bias=((7, 3.0), (9, -100.0)), min_tokens=20, stop_token_ids=(5, 6)
    ),
    "hot": SamplingParams(temperature=2.0, seed=15),
}
STORY = "Once upon a time there was a little dog. The little dog had a ball. Once upon a time there was a "


def requests_on(prompts: Sequence[Sequence[int]], **rules) -> list[GenerationRequest]:
    return [
        GenerationRequest(tuple(prompt), params, **rules) for prompt in prompts for params in PARAMS.values()
    ]


@contextmanager
def worker_on(runner: CpuRunner, *, speculation: str) -> Iterator[EngineWorker]:
    config = EngineConfig(speculation=speculation)  # type: ignore[arg-type]
    worker = EngineWorker(Engine(runner, ByteTokenizer(), eos_ids=frozenset(), config=config))
    try:
        yield worker
    finally:
        worker.close()


def answers_of(
    worker, requests: Sequence[GenerationRequest], *, together: bool = False
) -> tuple[list[Answer], EngineStats]:
    if together:
        streams = [worker.submit(request) for request in requests]
        answers = [collect(stream) for stream in streams]
    else:
        answers = [collect(worker.submit(request)) for request in requests]
    return answers, worker.stats()


def gists(answers: Sequence[Answer]) -> list[tuple[object, ...]]:
    return [answer.gist for answer in answers]


FAMILIES = (
    "llama",
    "mistral_window",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gpt_neox",
    "gpt_neo",
)
OPTIONS = {
    "f32": CpuOptions(weights="f32", kv_dtype="f32", cache=False, num_blocks=64, threads=1),
    "bf16": CpuOptions(weights="bf16", cache=False, num_blocks=64),
    "q8": CpuOptions(weights="q8", group=32, cache=False, num_blocks=64),
    "q4": CpuOptions(weights="q4", group=32, attention="int8", cache=False, num_blocks=64),
    "few blocks": CpuOptions(weights="q4", group=32, cache=False, num_blocks=9),
}


CASES = [("llama", kind) for kind in OPTIONS] + [
    (family, kind) for family in FAMILIES[1:] for kind in ("bf16", "q4")
]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_guesses_change_no_answer_of_a_tiny_model(family: str, kind: str, tmp_path: Path) -> None:
    save_tiny(family, tmp_path)
    prompts = [[3, 5, 7, 11, 3, 5, 7, 11, 3, 5], list(range(10, 41)) * 2, [8] * 17]
    requests = requests_on(prompts, max_tokens=60)
    with worker_on(CpuRunner.from_folder(tmp_path, OPTIONS[kind]), speculation="off") as worker:
        expected = gists(answers_of(worker, requests)[0])
    for together in (False, True):
        with (
            verifying_all(),
            worker_on(CpuRunner.from_folder(tmp_path, OPTIONS[kind]), speculation="on") as worker,
        ):
            answers, stats = answers_of(worker, requests, together=together)
        assert gists(answers) == expected
        assert 0 < stats.accepted_tokens_total < stats.drafted_tokens_total
        assert stats.num_used_blocks == 0
        if kind == "few blocks" and together:
            assert stats.preempted_total > 0


@pytest.mark.parametrize("weights", ["auto", "q4"])
@pytest.mark.parametrize("name", [*NAMES, EMBEDDED])
def test_guesses_change_no_answer_of_a_real_model(name: str, weights: str) -> None:
    options = CpuOptions(weights=weights, cache=False, num_blocks=128)  # type: ignore[arg-type]
    folder = real_model(name)

    def run(speculation: str, *, together: bool) -> tuple[list[Answer], EngineStats]:
        config = EngineConfig(speculation=speculation)  # type: ignore[arg-type]
        loaded = load_engine(folder, options=options, config=config)
        try:
            prompts = [loaded.tokenizer.encode(text) for text in (STORY, "Lily and Tom")]
            requests = requests_on(prompts, max_tokens=70, stop=("the dog ran", "!\n"), prompt_logprobs=0)
            return answers_of(loaded.client, requests, together=together)
        finally:
            loaded.client.close()

    expected, plain = run("off", together=False)
    assert plain.drafted_tokens_total == 0
    for together in (False, True):
        with verifying_all():
            answers, stats = run("on", together=together)
        assert gists(answers) == gists(expected)
        assert 0 < stats.accepted_tokens_total < stats.drafted_tokens_total
    measured, _ = run("on", together=True)  # as the policy decides
    assert gists(measured) == gists(expected)
