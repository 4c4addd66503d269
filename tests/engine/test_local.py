"""LLM: whole answers, streams and conversations without HTTP."""

from __future__ import annotations

import asyncio
import gc

import pytest
from engine_cases import answer_alone, ask, collect, make_worker

from narrows.engine.client import SamplingParams
from narrows.engine.fake import ASSISTANT_ID, BOS_ID, USER_ID, ByteTokenizer, FakeRunner, reply_with
from narrows.engine.local import LLM
from narrows.errors import ContextTooLong, InvalidRequest, Overloaded, RequestAborted

PARAMS = SamplingParams(seed=7, top_logprobs=1)


def make_llm(runner: FakeRunner | None = None, **settings) -> LLM:
    return LLM.over(make_worker(runner, **settings), ByteTokenizer())


def expected(prompt: str) -> str:
    return answer_alone(ask([BOS_ID, *prompt.encode()], 12, seed=7)).text


def test_more_prompts_than_the_queue_holds_are_answered_in_their_order() -> None:
    prompts = [f"prompt {index}" for index in range(30)]
    with make_llm(max_running=3, max_waiting=2) as llm:
        answers = llm.generate(prompts, PARAMS, max_tokens=12)
        again = asyncio.run(llm.agenerate(prompts, PARAMS, max_tokens=12))
    assert [answer.text for answer in answers] == [expected(prompt) for prompt in prompts]
    assert [answer.text for answer in again] == [answer.text for answer in answers]
    assert [answer.tokens for answer in again] == [answer.tokens for answer in answers]


def test_a_stream_is_its_whole_answer_read_with_for_or_async_for() -> None:
    async def read(llm: LLM) -> str:
        return "".join([chunk.text async for chunk in llm.stream("one", PARAMS, max_tokens=12)])

    with make_llm() as llm:
        whole = llm.generate("one", PARAMS, max_tokens=12)[0]
        assert whole.text == expected("one")
        assert "".join(chunk.text for chunk in llm.stream("one", PARAMS, max_tokens=12)) == whole.text
        assert asyncio.run(read(llm)) == whole.text
        assert whole.timing.num_prompt == 4


def test_token_ids_are_taken_as_they_are() -> None:
    with make_llm() as llm:
        one, *others = llm.generate([[97, 98], "ab"], PARAMS, max_tokens=12)
        assert llm.generate([97, 98], PARAMS, max_tokens=12)[0].text == one.text
    assert one.timing.num_prompt == 2
    assert others[0].timing.num_prompt == 3
    assert llm.generate.__doc__


def test_no_prompts_give_no_answers() -> None:
    with make_llm() as llm:
        assert llm.generate([]) == []


def test_a_conversation_goes_through_the_template_and_gets_no_second_begin_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ByteTokenizer, "strips_leading_space", True)  # as a turn stands by itself
    seen: list[tuple[int, ...]] = []

    def reply(history: tuple[int, ...], index: int) -> int:
        if index == 0:
            seen.append(history)
        return reply_with(" fine")(history, index)

    messages = [{"role": "user", "content": "how?"}]
    with make_llm(FakeRunner(choose=reply)) as llm:
        assert llm.chat(messages).text == "fine"
        assert asyncio.run(llm.achat(messages)).text == "fine"
        assert collect(llm.stream_chat(messages, stop=("n",))).text == "fi"
    assert seen == [(USER_ID, *b"how?", ASSISTANT_ID)] * 3


def test_without_sampling_parameters_every_answer_has_its_own_seed() -> None:
    runner = FakeRunner()
    with make_llm(runner) as llm:
        llm.generate(["a", "a"], max_tokens=1)
    assert runner.params[0].seed != runner.params[1].seed


def test_an_error_in_one_of_many_ends_the_others() -> None:
    llm = make_llm()
    with pytest.raises(ContextTooLong):
        llm.generate(["fine", "x" * 600], max_tokens=400)
    with pytest.raises(InvalidRequest, match="list of texts"):
        llm.generate("a", stop="text")  # type: ignore[arg-type]
    assert llm.client.drain(5)
    stats = llm.client.stats()
    assert (stats.num_used_blocks, stats.num_waiting) == (0, 0)
    llm.close()
    llm.close()
    with pytest.raises(RequestAborted):
        llm.generate("a")


def test_a_queue_full_of_others_requests_is_said() -> None:
    runner = FakeRunner()
    runner.gate.clear()
    llm = make_llm(runner, max_running=1, max_waiting=0)
    stream = llm.stream("others")
    with pytest.raises(Overloaded):
        llm.generate("mine")
    runner.gate.set()
    stream.abort()
    llm.close()


def test_an_llm_lives_as_long_as_its_streams_and_is_closed_with_them() -> None:
    runner = FakeRunner(alphabet=tuple(b"xyz"))
    runner.step_s = 0.001
    stream = make_llm(runner).stream("a", max_tokens=20)
    gc.collect()
    assert not runner.is_closed
    assert len(collect(stream).tokens) == 20
    del stream
    gc.collect()
    assert runner.is_closed


def test_cancelling_agenerate_aborts_what_is_under_way() -> None:
    runner = FakeRunner(alphabet=tuple(b"xyz"))
    runner.step_s = 0.001

    async def cancel_midway(llm: LLM) -> None:
        task = asyncio.create_task(llm.agenerate(["a", "b", "c"], max_tokens=400))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with make_llm(runner) as llm:
        asyncio.run(cancel_midway(llm))
        assert llm.client.drain(5)
        assert llm.client.stats().finished_abort_total == 3
