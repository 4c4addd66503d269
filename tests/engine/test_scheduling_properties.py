"""Random arrivals, lengths, aborts on tiny block pools: nothing leaks, everything ends, no answer changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from engine_cases import Driver, answer_alone, ask, make_engine
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.engine.client import GenerationRequest
from narrows.engine.fake import EOS_ID, LETTERS, FakeRunner

# Beginnings, middles and ends of characters of one to four bytes, and bytes that are never right.
PIECES = (*b"abe \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xed\xff", EOS_ID)


@dataclass(frozen=True)
class Arrival:
    request: GenerationRequest
    at_step: int
    abort_at: int | None


@dataclass(frozen=True)
class Machine:
    num_blocks: int
    block_size: int
    max_step_tokens: int
    max_running: int
    prefill_chunk: int
    alphabet: tuple[int, ...]

    def runner(self, num_blocks: int | None = None) -> FakeRunner:
        return FakeRunner(
            num_blocks=num_blocks or self.num_blocks,
            block_size=self.block_size,
            max_context=self.num_blocks * self.block_size,
            max_step_tokens=self.max_step_tokens,
            alphabet=self.alphabet,
        )


machines = st.builds(
    Machine,
    num_blocks=st.integers(3, 10),
    block_size=st.integers(1, 5),
    max_step_tokens=st.integers(1, 24),
    max_running=st.integers(1, 6),
    prefill_chunk=st.integers(1, 12),
    alphabet=st.sampled_from([LETTERS, PIECES]),
)


@st.composite
def arrivals(draw: st.DrawFn, machine: Machine) -> list[Arrival]:
    capacity = machine.num_blocks * machine.block_size
    made = []
    for _ in range(draw(st.integers(1, 7))):
        num_prompt = draw(st.integers(1, capacity - 1))
        request = ask(
            [draw(st.integers(97, 100)) for _ in range(num_prompt)],
            draw(st.integers(0, capacity - num_prompt)),
            seed=draw(st.integers(0, 3)),
            temperature=draw(st.sampled_from([0.0, 1.0])),
            top_logprobs=draw(st.sampled_from([None, 0, 2])),
            stop=draw(st.sampled_from([(), ("a",), ("ab", "b", "e "), ("\ufffd",)])),
            include_stop_text=draw(st.booleans()),
            ignore_eos=draw(st.booleans()),
            prompt_logprobs=draw(st.sampled_from([None, None, 1])),
        )
        at_step = draw(st.integers(0, 12))
        made.append(Arrival(request, at_step, draw(st.none() | st.integers(at_step, at_step + 12))))
    return made


@given(st.data(), machines)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_requests_on_a_tiny_pool_end_with_the_answers_they_get_alone(data, machine) -> None:
    plan = data.draw(arrivals(machine))
    runner = machine.runner()
    driver = Driver(make_engine(runner, max_running=machine.max_running, prefill_chunk=machine.prefill_chunk))
    for step in range(max(arrival.at_step for arrival in plan) + 1):
        run_one_step(driver, plan, step)
    step += 1
    while driver.engine.has_work and step < 5_000:
        run_one_step(driver, plan, step)
        step += 1
    driver.finish()
    assert runner.num_samplers == 0
    for index, arrival in enumerate(plan):
        answer = driver.answers[index]
        alone = answer_alone(arrival.request, machine.runner(num_blocks=64))
        if answer.finish_reason == "abort":
            assert alone.text.startswith(answer.text)
            assert alone.tokens[: len(answer.tokens)] == answer.tokens
        else:
            assert answer.gist == alone.gist


def run_one_step(driver: Driver, plan: list[Arrival], step: int) -> None:
    for index, arrival in enumerate(plan):
        if arrival.at_step == step:
            driver.submit(index, arrival.request)
    for index, arrival in enumerate(plan):
        if arrival.abort_at == step:
            driver.abort(index)
    if driver.engine.has_work:
        driver.step()


def test_preemption_happens_and_changes_no_answer() -> None:
    runner = FakeRunner(num_blocks=8, block_size=2, max_context=16)
    requests = [ask("abc", 12, seed=seed, ignore_eos=True, top_logprobs=1) for seed in range(4)]
    driver = Driver(make_engine(runner))
    for index, request in enumerate(requests):
        driver.submit(index, request)
    driver.finish()
    assert driver.engine.scheduler.num_preempted > 0
    timing = driver.answers[3].chunks[-1].timing
    assert timing is not None
    assert timing.num_preempted > 0
    for index, request in enumerate(requests):
        assert driver.answers[index].gist == answer_alone(request).gist


class RecordingRunner(FakeRunner):
    """Counts how often each prompt token's logprob is asked for."""

    def __init__(self, **sizes) -> None:
        super().__init__(**sizes)
        self.asked: Counter[tuple[int, int]] = Counter()

    def run(self, step):
        for sequence in step.sequences:
            rows = enumerate(sequence.targets)
            self.asked.update(
                (sequence.request_id, sequence.start + row) for row, token in rows if token >= 0
            )
        return super().run(step)


@pytest.mark.parametrize("prefill_chunk", [2, 16])
def test_prompt_logprobs_survive_a_preemption_and_are_asked_for_once(prefill_chunk: int) -> None:
    runner = RecordingRunner(num_blocks=12, block_size=2, max_context=24)
    driver = Driver(make_engine(runner, prefill_chunk=prefill_chunk))
    requests = [ask("ab", 22, ignore_eos=True), *(ask("abcdefgh", 9, prompt_logprobs=1) for _ in range(2))]
    for index, request in enumerate(requests):
        driver.submit(index, request)
    driver.finish()
    assert driver.engine.scheduler.num_preempted > 0
    assert set(runner.asked.values()) == {1}
    for index, request in enumerate(requests):
        assert driver.answers[index].gist == answer_alone(request).gist


def test_the_oldest_request_is_never_driven_out() -> None:
    driver = Driver(make_engine(FakeRunner(num_blocks=6, block_size=2, max_context=12)))
    for index in range(5):
        driver.submit(index, ask("ab", 10, seed=index, ignore_eos=True))
    driver.finish()
    first = driver.answers[0].chunks[-1].timing
    assert first is not None
    assert first.num_preempted == 0


@pytest.mark.parametrize("prefill_chunk", [1, 4, 16])
def test_a_long_prompt_takes_at_most_its_chunk_of_a_step_with_decode_rows(prefill_chunk: int) -> None:
    runner = FakeRunner(num_blocks=256, block_size=4, max_step_tokens=128, alphabet=tuple(b"xyz"))
    driver = Driver(make_engine(runner, prefill_chunk=prefill_chunk))
    driver.submit(0, ask("a", 200, ignore_eos=True))
    driver.step()
    driver.submit(1, ask("b" * 100, 2, ignore_eos=True))
    before = driver.engine.counters.step_tokens
    num_steps = 0
    while not driver.answers[1].chunks:
        driver.step()
        num_steps += 1
        now = driver.engine.counters.step_tokens
        assert now - before <= 1 + prefill_chunk
        before = now
        assert len(driver.answers[0].tokens) == 1 + num_steps, "a token in every step"
    assert num_steps == -(-100 // prefill_chunk)


def test_a_prompt_alone_is_read_in_whole_steps() -> None:
    driver = Driver(make_engine(FakeRunner(max_step_tokens=64), prefill_chunk=8))
    driver.submit(0, ask("c" * 100, 1))
    driver.finish()
    assert driver.engine.counters.steps == 2


def test_requests_start_in_the_order_they_came() -> None:
    driver = Driver(make_engine(FakeRunner(max_step_tokens=8), max_running=3))
    for index in range(8):
        driver.submit(index, ask("abcd", 3, seed=index, ignore_eos=True))
    order: list[int] = []
    while driver.engine.has_work:
        driver.step()
        order += [r.request_id for r in driver.engine.scheduler.admitted]
    assert order == list(range(8))


def test_aborting_frees_the_blocks_before_the_next_step() -> None:
    driver = Driver(make_engine())
    driver.submit(0, ask("abcdefgh", 50, ignore_eos=True))
    driver.submit(1, ask("abcdefgh", 50, ignore_eos=True))
    driver.step()
    used = driver.engine.scheduler.pool.num_used
    driver.abort(0)
    assert driver.engine.scheduler.pool.num_used < used
    assert driver.answers[0].finish_reason == "abort"
    driver.abort(1)
    assert driver.engine.scheduler.pool.num_used == 0
    assert not driver.engine.has_work
