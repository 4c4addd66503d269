"""A head in two planes: greedy and top-k requests get the tokens that a head read whole would give, alone and
beside other requests; where all logits are asked for, they are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from narrows.engine.step import SamplingParams, SequenceStep, Step
from narrows.models.resolve import resolve_model
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions
from narrows.runners.plan import HeadKind
from tests.runners.generate import greedy

BLOCKS = 8  # of a request: 128 tokens


def make_runner(head: HeadKind) -> CpuRunner:
    options = CpuOptions(weights="q4", head=head, cache=False, num_blocks=12 * BLOCKS, threads=2)
    return CpuRunner.from_folder(resolve_model(None, offline=True), options)


@pytest.fixture(scope="module")
def whole() -> Iterator[CpuRunner]:
    runner = make_runner("q8")
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def planes() -> Iterator[CpuRunner]:
    runner = make_runner("auto")
    yield runner
    runner.close()


def prompts(count: int) -> list[list[int]]:
    source = np.random.default_rng(3)
    return [source.integers(4, 4096, int(source.integers(1, 20))).tolist() for _ in range(count)]


def together(runner: CpuRunner, params: SamplingParams, some: list[list[int]], steps: int) -> list[list[int]]:
    """Every request one token a step, all in the same step."""
    texts = [list(prompt) for prompt in some]
    starts = [0] * len(texts)
    for i, prompt in enumerate(some):
        runner.add(i, params, tuple(prompt))
    for _ in range(steps):
        step = Step(
            tuple(
                SequenceStep(i, tuple(ids[start:]), start, tuple(range(i * BLOCKS, (i + 1) * BLOCKS)), True)
                for i, (ids, start) in enumerate(zip(texts, starts, strict=True))
            )
        )
        starts = [len(ids) for ids in texts]
        for result in runner.run(step).sequences:
            texts[result.request_id].append(result.drawn[0].token_id)
    for i in range(len(texts)):
        runner.remove(i)
    return texts


def test_greedy_tokens_are_those_of_a_head_read_whole(whole: CpuRunner, planes: CpuRunner) -> None:
    assert "two planes" in planes.info.description["weights"]
    for prompt in prompts(60):
        assert greedy(planes, prompt, 48) == greedy(whole, prompt, 48)


@pytest.mark.parametrize("count", [1, 3, 8, 11])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1.0, top_k=20, top_p=0.9, seed=5),
        SamplingParams(temperature=0.8, top_k=64, min_p=0.02, seed=6),
        SamplingParams(temperature=1.0, seed=7),
        SamplingParams(temperature=0.0, frequency_penalty=0.5),
    ],
    ids=["greedy", "top_k", "min_p", "free", "penalty"],
)
def test_requests_together_get_what_a_head_read_whole_gives(
    whole: CpuRunner, planes: CpuRunner, params: SamplingParams, count: int
) -> None:
    some = prompts(count)
    assert together(planes, params, some, 40) == together(whole, params, some, 40)


def test_all_logits_have_the_bits_of_a_head_read_whole(whole: CpuRunner, planes: CpuRunner) -> None:
    ids = list(range(100, 140))
    np.testing.assert_array_equal(planes.logits(ids), whole.logits(ids))


def test_a_step_reads_half_of_the_head(whole: CpuRunner, planes: CpuRunner) -> None:
    head = 4096 * 256
    saved = whole.info.weight_bytes_per_step - planes.info.weight_bytes_per_step
    assert 0.45 * head < saved <= 0.5 * head
