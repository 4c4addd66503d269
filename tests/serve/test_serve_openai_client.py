"""Every generating route and option through the real client, streamed and not."""

from __future__ import annotations

import openai
import pytest
from serve_harness import ASK, MODEL, RunningServer, running_server

from narrows.engine.fake import FakeRunner, reply_with

OPTIONS: dict[str, dict] = {
    "plain": {},
    "greedy": {"temperature": 0},
    "several answers": {"n": 3},
    "nucleus": {"top_p": 0.7, "temperature": 1.3},
    "penalties": {"presence_penalty": 0.5, "frequency_penalty": -0.5},
    "one stop string": {"stop": "e"},
    "many stop strings": {"stop": ["xq", "e ", "ab"]},
    "bias": {"logit_bias": {"97": 20, "98": -100}},
    "logprobs": {"logprobs": True},
    "best logprobs": {"logprobs": True, "top_logprobs": 3},
    "extensions": {"extra_body": {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 3}},
    "no end": {"extra_body": {"ignore_eos": True}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_chat_stream_equals_its_whole_answer(server: RunningServer, name: str) -> None:
    options = {**ASK, "max_completion_tokens": 20, "seed": 7, **OPTIONS[name]}
    with server.client() as client:
        whole = client.chat.completions.create(**options)
        chunks = list(
            client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
        )
    assert chunks[-1].usage
    assert whole.usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len(whole.choices) == options.get("n", 1)
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert parts[0].delta.role == "assistant"
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert parts[-1].finish_reason == choice.finish_reason in ("stop", "length")
        streamed = [token for part in parts if part.logprobs for token in part.logprobs.content or []]
        assert streamed == ((choice.logprobs.content if choice.logprobs else None) or [])


@pytest.mark.parametrize("name", set(OPTIONS) - {"logprobs", "best logprobs"})
@pytest.mark.parametrize("echo", [False, True])
def test_a_completion_stream_equals_its_whole_answer(server: RunningServer, name: str, echo: bool) -> None:
    options = {
        "model": MODEL,
        "prompt": ["Once", "上"],
        "max_tokens": 12,
        "seed": -5,
        "echo": echo,
        **OPTIONS[name],
    }
    options |= {"logprobs": 2}
    with server.client() as client:
        whole = client.completions.create(**options)
        chunks = list(client.completions.create(**options, stream=True))
    n = options.get("n", 1)
    assert [choice.index for choice in whole.choices] == list(range(2 * n))
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert choice.text.startswith(["Once", "上"][choice.index // n]) or not echo
        assert parts[-1].finish_reason == choice.finish_reason
        for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            streamed = [item for part in parts if part.logprobs for item in getattr(part.logprobs, field)]
            assert streamed == getattr(choice.logprobs, field), field


def test_answers_of_one_request_equal_requests_with_seeds_counted_up(server: RunningServer) -> None:
    with server.client() as client:
        together = client.chat.completions.create(**ASK, max_tokens=16, seed=40, n=4)
        alone = [client.chat.completions.create(**ASK, max_tokens=16, seed=40 + i) for i in range(4)]
    assert [choice.message.content for choice in together.choices] == [
        a.choices[0].message.content for a in alone
    ]
    assert len({choice.message.content for choice in together.choices}) > 1


def test_prompts_of_one_request_get_what_they_get_alone(server: RunningServer) -> None:
    prompts = ["a", "bc", "def"]
    with server.client() as client:
        together = client.completions.create(model=MODEL, prompt=prompts, seed=3, max_tokens=9)
        alone = [client.completions.create(model=MODEL, prompt=p, seed=3, max_tokens=9) for p in prompts]
        as_ids = client.completions.create(
            model=MODEL, prompt=[[257, *p.encode()] for p in prompts], seed=3, max_tokens=9
        )
    assert (
        [c.text for c in together.choices]
        == [a.choices[0].text for a in alone]
        == [c.text for c in as_ids.choices]
    )


def test_without_a_seed_answers_differ(server: RunningServer) -> None:
    with server.client() as client:
        texts = {
            client.chat.completions.create(**ASK, max_tokens=30).choices[0].message.content for _ in range(4)
        }
    assert len(texts) > 1


def test_echo_carries_the_logprobs_of_the_prompt(server: RunningServer) -> None:
    with server.client() as client:
        answer = client.completions.create(model=MODEL, prompt="abc", echo=True, logprobs=1, max_tokens=0)
        ids = client.completions.create(
            model=MODEL,
            prompt=[97, 98],
            echo=True,
            logprobs=0,
            max_tokens=2,
            seed=1,
            extra_body={"ignore_eos": True},
        )
    choice = answer.choices[0]
    assert choice.text == "abc"
    assert choice.finish_reason == "length"
    assert choice.logprobs.tokens == ["", "a", "b", "c"]
    assert choice.logprobs.token_logprobs[0] is None
    assert all(logprob < 0 for logprob in choice.logprobs.token_logprobs[1:])
    assert ids.choices[0].text.startswith("ab")
    assert ids.choices[0].logprobs.text_offset[:3] == [0, 1, 2]


def test_completions_stop_after_sixteen_tokens_by_default(server: RunningServer) -> None:
    with server.client() as client:
        answer = client.completions.create(model=MODEL, prompt="a", extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_every_form_of_content_gives_the_same_prompt(server: RunningServer) -> None:
    plain = [{"role": "system", "content": "be nice"}, {"role": "user", "content": "hello"}]
    parts = [
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "nice"}]},
        {"role": "user", "content": [{"type": "text", "text": "hello"}], "name": "Ann"},
    ]
    with server.client() as client:
        answers = [
            client.chat.completions.create(model=MODEL, messages=m, seed=1, max_tokens=9)
            for m in (plain, parts)
        ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert answers[0].usage.prompt_tokens == answers[1].usage.prompt_tokens


def test_an_answer_can_be_sent_back_as_it_came(server: RunningServer) -> None:
    with server.client() as client:
        first = client.chat.completions.create(**ASK, max_tokens=8)
        turns = [*ASK["messages"], first.choices[0].message, {"role": "user", "content": "more"}]
        second = client.chat.completions.create(model=MODEL, messages=turns, max_tokens=8)
    assert second.choices[0].finish_reason


@pytest.mark.parametrize("text", ["日本語のテキスト", "naïve café 😀👩‍👩‍👧 end"])
def test_characters_are_never_cut(text: str) -> None:
    with running_server(runner=FakeRunner(choose=reply_with(text))) as server, server.client() as client:
        for limit in (*range(1, len(text.encode()), 3), 400):
            options = {**ASK, "max_tokens": limit}
            whole = client.chat.completions.create(**options).choices[0].message.content
            pieces = [
                c.choices[0].delta.content or ""
                for c in client.chat.completions.create(**options, stream=True)
            ]
            assert "".join(pieces) == whole == text.encode()[:limit].decode("utf-8", "replace")
            assert all("\ufffd" not in piece for piece in pieces[:-1])


@pytest.mark.parametrize("stop", ["lazy", "over the", "d", "x jumps", "THE", "🦊!"])
def test_a_stop_string_never_leaks(stop: str) -> None:
    text = "the quick brown fox jumps over the lazy dog 🦊! THE END"
    with running_server(runner=FakeRunner(choose=reply_with(text))) as server, server.client() as client:
        options = {**ASK, "stop": [stop, "never said"], "logprobs": True}
        whole = client.chat.completions.create(**options).choices[0]
        chunks = list(client.chat.completions.create(**options, stream=True))
    cut = text[: text.index(stop)]
    assert whole.message.content == "".join(c.choices[0].delta.content or "" for c in chunks) == cut
    assert whole.finish_reason == chunks[-1].choices[0].finish_reason == "stop"
    assert b"".join(bytes(token.bytes) for token in whole.logprobs.content) == cut.encode()


def test_each_answer_carries_its_timing(server: RunningServer) -> None:
    options = {**ASK, "max_tokens": 12, "extra_body": {"ignore_eos": True}}
    with server.client() as client:
        raw = client.chat.completions.with_raw_response.create(**options)
        last = list(client.chat.completions.create(**options, stream=True))[-1]
    timing = raw.parse().usage.model_extra["timing"]
    assert set(timing) == {"queue_ms", "prefill_ms", "decode_ms", "ttft_ms", "tpot_ms"}
    assert timing["ttft_ms"] == pytest.approx(timing["queue_ms"] + timing["prefill_ms"], abs=0.01)
    assert timing["tpot_ms"] == pytest.approx(timing["decode_ms"] / 11, abs=0.01)
    assert f"ttft_ms={timing['ttft_ms']:g}" in raw.headers["x-narrows-timing"]
    assert last.model_extra["timing"]["ttft_ms"] > 0


async def _gather(server: RunningServer, count: int) -> list[str]:
    import asyncio

    async with server.async_client() as client:

        async def one(seed: int) -> str:
            stream = await client.chat.completions.create(**ASK, seed=seed, max_tokens=24, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        return await asyncio.gather(*(one(seed) for seed in range(count)))


def test_answers_beside_others_equal_answers_alone(server: RunningServer) -> None:
    import asyncio

    together = asyncio.run(_gather(server, 24))
    with server.client() as client:
        alone = [client.chat.completions.create(**ASK, seed=seed, max_tokens=24) for seed in range(24)]
    assert together == [answer.choices[0].message.content for answer in alone]


def test_the_models_are_listed(server: RunningServer) -> None:
    with server.client() as client:
        assert [card.id for card in client.models.list()] == [MODEL, "alias/of-fake"]
        assert client.models.retrieve("alias/of-fake").id == "alias/of-fake"
        with pytest.raises(openai.NotFoundError, match="not served here"):
            client.models.retrieve("gpt-9")
        answer = client.chat.completions.create(**{**ASK, "model": "alias/of-fake"}, max_tokens=2)
        assert answer.model == "alias/of-fake"
        with pytest.raises(openai.NotFoundError, match="not served here"):
            client.chat.completions.create(**{**ASK, "model": "gpt-9"})
