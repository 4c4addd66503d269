"""Guesses change no answer: ends, stop strings, limits, logprobs, broken logits, few blocks, aborts."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest
from engine_cases import Answer, Driver, MakeWorker, ask, collect, make_engine, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from speculation_cases import DrawnRunner, drawn_alone, guessing, knowing, verifying_all
from test_scheduling_properties import arrivals, machines, run_one_step

from narrows.engine.client import GenerationRequest
from narrows.engine.config import EngineConfig
from narrows.engine.fake import EOS_ID, FakeRunner, reply_with
from narrows.engine.request import Request
from narrows.errors import InvalidConfig, InvalidModel

pytest.importorskip("narrows._core", reason="the native core is not built")

STORY = "the cat sat on the mat and the dog sat on the log"


def answer_of(runner: FakeRunner, request: GenerationRequest, **settings) -> tuple[Answer, Driver]:
    driver = Driver(make_engine(runner, **{"speculation": "on", **settings}))
    driver.submit(1, request)
    driver.finish()
    return driver.answers[1], driver


def plain(runner: FakeRunner, request: GenerationRequest) -> Answer:
    return answer_of(runner, request, speculation="off")[0]


def guessed(runner: FakeRunner, request: GenerationRequest, text: str, longest: int = 6) -> Answer:
    """The answer with guesses that are often right; most of its tokens take no step of their own."""
    truth = [*text.encode(), EOS_ID]
    with guessing(knowing({1: truth}, longest=longest)):
        answer, driver = answer_of(runner, request)
    counters = driver.engine.counters
    if counters.output_tokens > 10:
        assert 0 < counters.accepted < counters.drafted
        assert counters.steps < counters.output_tokens
    return answer


@given(st.data(), machines)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_requests_with_guesses_end_with_the_answers_they_get_alone(data, machine) -> None:
    plan = data.draw(arrivals(machine))
    sizes = {"num_blocks": 64, "block_size": machine.block_size, "max_step_tokens": machine.max_step_tokens}
    sizes |= {"max_context": machine.num_blocks * machine.block_size, "alphabet": machine.alphabet}
    truths = {
        index: drawn_alone(replace(arrival.request, stop=()), DrawnRunner(**sizes))
        for index, arrival in enumerate(plan)
    }
    runner = machine.runner()
    driver = Driver(
        make_engine(
            runner,
            max_running=machine.max_running,
            prefill_chunk=machine.prefill_chunk,
            speculation="on",
        )
    )
    with guessing(knowing(truths)):
        for step in range(5_000):
            if step > 24 and not driver.engine.has_work:
                break
            run_one_step(driver, plan, step)
    driver.finish()
    assert runner.num_samplers == 0
    for index, arrival in enumerate(plan):
        answer = driver.answers[index]
        alone = plain(machine.runner(num_blocks=64), arrival.request)
        if answer.finish_reason == "abort":
            assert alone.text.startswith(answer.text)
            assert alone.tokens[: len(answer.tokens)] == answer.tokens
        else:
            assert answer.gist == alone.gist


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_a_stop_string_ends_the_answer_wherever_it_stands(length: int, include: bool) -> None:
    for begin in range(len(STORY) - length + 1):
        stop = (STORY[begin : begin + length],)
        request = ask("once", 100, stop=stop, include_stop_text=include, top_logprobs=2)
        alone = plain(FakeRunner(choose=reply_with(STORY)), request)
        answer = guessed(FakeRunner(choose=reply_with(STORY)), request, STORY)
        assert answer.gist == alone.gist
        assert answer.finish_reason == "stop"


def test_any_number_of_tokens_may_be_asked_for() -> None:
    for max_tokens in range(len(STORY) + 3):
        request = ask("once", max_tokens, top_logprobs=0)
        alone = plain(FakeRunner(choose=reply_with(STORY)), request)
        assert guessed(FakeRunner(choose=reply_with(STORY)), request, STORY).gist == alone.gist


@pytest.mark.parametrize(
    "fields", [{"ignore_eos": True}, {"min_tokens": 30}, {"stop_token_ids": (ord("d"),)}]
)
def test_end_tokens_count_where_they_did(fields: dict[str, object]) -> None:
    request = ask("once", 60, **fields)
    alone = plain(FakeRunner(choose=reply_with(STORY)), request)
    assert guessed(FakeRunner(choose=reply_with(STORY)), request, STORY).gist == alone.gist


def test_a_sampled_answer_is_the_one_of_its_seed() -> None:
    for seed in range(12):
        request = ask("abc", 60, seed=seed, temperature=0.9, top_logprobs=3, ignore_eos=True)
        truth = drawn_alone(request, DrawnRunner())
        with guessing(knowing({1: truth})):
            answer, _ = answer_of(FakeRunner(), request)
        assert answer.gist == plain(FakeRunner(), request).gist


@pytest.mark.parametrize("stop", [(), ("sat",)])
def test_broken_logits_fail_a_request_at_the_same_token(stop: tuple[str, ...]) -> None:
    def poisoned() -> FakeRunner:
        runner = FakeRunner(choose=reply_with(STORY))
        runner.poison_id = ord("d")
        return runner

    request = ask("once", 100, stop=stop)
    alone = plain(poisoned(), request)
    answer = guessed(poisoned(), request, STORY)
    assert answer.text == alone.text
    assert answer.tokens == alone.tokens
    assert str(answer.error) == str(alone.error)
    assert isinstance(answer.error, InvalidModel) or stop


@pytest.mark.parametrize("num_blocks", [6, 7, 9, 12, 34])
def test_guesses_drive_nobody_out_and_leak_no_block(num_blocks: int) -> None:
    requests = [ask("abc", 20, seed=seed, ignore_eos=True, top_logprobs=1) for seed in range(5)]
    truths = {index: drawn_alone(request, DrawnRunner()) for index, request in enumerate(requests)}

    driver = Driver(
        make_engine(FakeRunner(num_blocks=num_blocks, block_size=4, max_context=24), speculation="on")
    )
    know = knowing(truths)
    num_preempted: list[int] = []  # when guesses were asked for

    def guess(request: Request, most: int) -> list[int]:
        num_preempted.append(driver.engine.scheduler.num_preempted)
        return know(request, most)

    for index, request in enumerate(requests):
        driver.submit(index, request)
    with guessing(guess):
        while driver.engine.has_work:
            num_preempted.clear()
            driver.step()
            assert not num_preempted or num_preempted[-1] == driver.engine.scheduler.num_preempted
    driver.finish()
    for index, request in enumerate(requests):
        gist = plain(FakeRunner(max_context=24), request).gist
        assert driver.answers[index].gist == gist
    assert driver.engine.counters.accepted > 0
    assert (driver.engine.scheduler.num_preempted > 0) == (num_blocks < 30)


def test_a_step_is_never_larger_than_the_runner_allows() -> None:
    runner = FakeRunner(max_step_tokens=7, alphabet=tuple(b"xy"))
    driver = Driver(make_engine(runner, max_running=5, speculation="on"))
    for index in range(5):
        driver.submit(index, ask("ab", 30, seed=index, ignore_eos=True))
    with guessing(lambda request, most: [ord("x")] * most):
        driver.finish()  # the runner refuses a larger step
    assert driver.engine.counters.drafted > 0


def test_a_prompt_beside_answers_keeps_its_chunk_and_its_steps_have_no_guesses() -> None:
    driver = Driver(make_engine(FakeRunner(alphabet=tuple(b"xyz")), prefill_chunk=8, speculation="on"))
    driver.submit(0, ask("a", 100, ignore_eos=True))
    with guessing(lambda request, most: [ord("x")] * most):
        driver.step()
        driver.submit(1, ask("b" * 64, 2, ignore_eos=True))
        for _ in range(8):
            before = driver.engine.counters.step_tokens
            driver.step()
            assert driver.engine.counters.step_tokens - before == 1 + 8
        driver.step()
        assert driver.engine.counters.drafted > 0


def test_the_drafter_finds_a_loop_and_no_token_changes() -> None:
    verse = "row row row your boat gently down the stream " * 4
    request = ask("sing", 200, top_logprobs=1)
    alone = plain(FakeRunner(choose=reply_with(verse)), request)
    with verifying_all():
        answer, driver = answer_of(FakeRunner(choose=reply_with(verse)), request)
    assert answer.gist == alone.gist
    assert driver.engine.counters.steps < driver.engine.counters.output_tokens / 3


def test_shared_drafts_find_what_another_request_was_answered() -> None:
    text = "zyxwvutsrqponmlkjihgfedcba 0123456789"

    def num_steps(**settings) -> int:
        driver = Driver(make_engine(FakeRunner(choose=reply_with(text)), speculation="on", **settings))
        for index in range(2):
            driver.submit(index, ask("go", 60))
            driver.finish()
        assert driver.answers[0].gist == driver.answers[1].gist
        return driver.engine.counters.steps

    with verifying_all():
        assert num_steps(share_drafts=True) < num_steps() - 10


def test_a_storm_of_cancellations_leaves_nothing(worker_of: MakeWorker) -> None:
    verse = "row row row your boat gently down the stream " * 10
    runner = FakeRunner(num_blocks=60, choose=reply_with(verse))
    with verifying_all():
        worker = worker_of(runner, max_running=8, max_waiting=200, speculation="on")
        expected = None
        source = random.Random(1)
        streams = [worker.submit(ask("sing", 200, top_logprobs=0)) for _ in range(120)]
        spared = set(source.sample(range(len(streams)), 12))
        cancel = threading.Thread(
            target=lambda: [stream.abort() for index, stream in enumerate(streams) if index not in spared]
        )
        cancel.start()
        for index in sorted(spared):
            answer = collect(streams[index])
            expected = expected or answer
            assert answer.gist == expected.gist
        cancel.join()
        wait_until(lambda: worker.stats().num_used_blocks == 0)
        stats = worker.stats()
    assert stats.accepted_tokens_total > 0
    assert stats.accepted_tokens_total <= stats.drafted_tokens_total
    assert runner.num_samplers == 0
    worker.check_health()


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="speculation is 'maybe'; it must be one of auto, on, off"):
        EngineConfig(speculation="maybe")  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="share_drafts has no meaning where speculation is"):
        EngineConfig(speculation="off", share_drafts=True)
    with pytest.raises(InvalidConfig, match="max_draft is 0"):
        EngineConfig(max_draft=0)
