"""Timing loads on a runner whose time is scripted: what is run, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrows.diagnose.drafting import best_count, draft, write
from narrows.diagnose.predict import OUTSIDE
from narrows.diagnose.setup import LOADS, Setup
from narrows.diagnose.trace import Tracer
from narrows.errors import OutOfMemory
from tests.diagnose.synthetic import ScriptedRunner, question, subject, workload


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return question(subject(tmp_path), workload(700, 40, 3)).setup(2)


def test_a_decode_step_is_a_token_of_every_stream_in_blocks_of_its_own(setup: Setup) -> None:
    runner = ScriptedRunner(token_s=1e-3, outside_s=2e-3)
    found = Tracer(runner, runner.clock).measure(setup, "decode", work_s=0.05)
    assert found.seconds == pytest.approx(3e-3 + 2e-3)
    assert found.groups == pytest.approx({"attention": 0.75e-3, "up": 2.25e-3, OUTSIDE: 2e-3})
    step = runner.steps[-1]
    assert [(len(s.token_ids), s.start, s.sample) for s in step.sequences] == [(1, 720, True)] * 3
    blocks = [block for s in step.sequences for block in s.block_ids]
    assert len(set(blocks)) == len(blocks) == 3 * -(-721 // 16)
    assert not runner.known


def test_a_prompt_is_read_in_steps_of_the_runner_and_draws_once(setup: Setup) -> None:
    runner = ScriptedRunner()
    found = Tracer(runner, runner.clock).measure(setup, "prefill", work_s=0.0, least=1)
    assert [(s.sequences[0].start, len(s.sequences[0].token_ids)) for s in runner.steps[-2:]] == [
        (0, 512),
        (512, 188),
    ]
    assert [s.sequences[0].sample for s in runner.steps[-2:]] == [False, True]
    assert found.seconds == pytest.approx(0.700 + 2 * 2e-3)


def test_a_mixed_step_never_exceeds_what_the_runner_takes(setup: Setup) -> None:
    runner = ScriptedRunner()
    Tracer(runner, runner.clock).measure(setup, "mixed", work_s=0.0)
    rows = [len(sequence.token_ids) for sequence in runner.steps[-1].sequences]
    assert rows == [128, 1, 1]
    assert max(step.num_tokens for step in runner.steps) <= runner.info.max_step_tokens


def test_pages_are_written_before_they_are_read(setup: Setup) -> None:
    runner = ScriptedRunner()
    tracer = Tracer(runner, runner.clock)
    tracer.measure(setup, "decode", work_s=0.0)
    touched = {s.block_ids[0] for step in runner.steps for s in step.sequences if len(s.block_ids) == 1}
    assert touched == set(range(3 * 46))
    num_steps = len(runner.steps)
    tracer.measure(setup, "decode", work_s=0.0)
    assert all(len(s.block_ids) > 1 for step in runner.steps[num_steps:] for s in step.sequences)


def test_a_neighbours_burst_does_not_move_what_is_told(setup: Setup) -> None:
    runner = ScriptedRunner()
    tracer = Tracer(runner, runner.clock)
    quiet = tracer.measure(setup, "decode", work_s=0.05)
    runner.slow_steps = 8
    loud = tracer.measure(setup, "decode", work_s=0.2)
    assert loud.seconds == pytest.approx(quiet.seconds)
    assert loud.groups == pytest.approx(quiet.groups)


def test_too_few_pages_are_told_with_what_to_do(setup: Setup) -> None:
    runner = ScriptedRunner(num_blocks=10)
    for load in LOADS:
        with pytest.raises(OutOfMemory, match="--concurrency"):
            Tracer(runner, runner.clock).measure(setup, load)


def test_writing_ends_with_the_context_or_the_time() -> None:
    runner = ScriptedRunner()
    assert write(runner, [1, 2, 3], 5, most_s=9.0) == [7] * 5
    assert [len(s.sequences[0].token_ids) for s in runner.steps] == [3, 1, 1, 1, 1]
    assert len(write(runner, [1], 50, most_s=0.0)) == 1
    assert not runner.known


def test_guesses_are_counted_as_they_would_have_been_right() -> None:
    pytest.importorskip("narrows._core", reason="the native core is not built")
    costs = {0: 1.0, 1: 1.1, 3: 1.2, 7: 1.5, 15: 2.0}
    repeated = draft([1, 2, 3, 4, 5] * 8, [1, 2, 3, 4, 5] * 12, costs, "a copy")
    assert repeated.tokens_per_step > 4
    assert repeated.gain > 3
    fresh = draft([1, 2], list(range(10, 70)), costs, "nothing twice")
    assert fresh.tokens_per_step == pytest.approx(1.0)
    assert fresh.gain == pytest.approx(1.0)
    dear = draft([1, 2, 3, 4, 5] * 8, [1, 2, 3, 4, 5] * 12, {0: 1.0, 1: 9.0, 15: 99.0}, "too dear")
    assert dear.gain == pytest.approx(1.0)


def test_only_guesses_that_pay_are_run() -> None:
    costs = {0: 1.0, 1: 1.5, 3: 1.6}
    assert best_count([0.2, 0.1, 0.1], costs) == 0
    assert best_count([0.9, 0.9, 0.9], costs) == 3
    assert best_count([], costs) == 0
