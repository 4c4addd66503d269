"""The embedded model behind the real server: stories, not hashes."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import pytest

if importlib.util.find_spec("narrows._core") is None:
    pytest.skip("the native core is not built", allow_module_level=True)

from serve_harness import wait_for

from narrows.engine.load import load_engine
from narrows.serve.config import ServeConfig
from narrows.serve.metrics import Metrics
from narrows.serve.server import DrainingServer, bind, url_of
from narrows.serve.service import Service

STORY = {"model": "m", "messages": [{"role": "user", "content": "Tell me a story about a dog."}]}


@contextmanager
def serving() -> Iterator[str]:
    loaded = load_engine()
    config = ServeConfig(("m",), port=0)
    service = Service(config, loaded.client, loaded.tokenizer, Metrics("m", loaded.client))
    listener = bind(config)
    listener.listen(128)
    server = DrainingServer(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield url_of(listener)
        wait_for(lambda: loaded.client.stats().num_used_blocks == 0)
    finally:
        server.should_exit = True
        thread.join(10)
        loaded.client.close()
        service.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=60) as client:
        yield client


def test_a_story_is_streamed_as_it_is_given_whole(client: openai.OpenAI) -> None:
    options = {**STORY, "max_tokens": 120, "seed": 3, "temperature": 0.8, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**options).choices[0]
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content
    assert len(whole.message.content.split()) > 20
    tokens = whole.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == whole.message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


def test_a_stop_string_ends_the_story_before_it(client: openai.OpenAI) -> None:
    options = {**STORY, "max_tokens": 150, "temperature": 0}
    text = client.chat.completions.create(**options).choices[0].message.content
    stop = text[40:47]
    cut = client.chat.completions.create(**options, stop=stop).choices[0]
    assert cut.message.content == text[: text.index(stop)]
    assert cut.finish_reason == "stop"


def test_stories_together_equal_stories_alone(url: str, client: openai.OpenAI) -> None:
    async def together() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", timeout=60) as many:

            async def one(seed: int) -> str:
                answer = await many.chat.completions.create(**STORY, seed=seed, max_tokens=60)
                return answer.choices[0].message.content or ""

            return await asyncio.gather(*(one(seed) for seed in range(8)))

    alone = [client.chat.completions.create(**STORY, seed=seed, max_tokens=60) for seed in range(8)]
    assert asyncio.run(together()) == [answer.choices[0].message.content for answer in alone]


def test_the_logprobs_of_an_answer_are_those_of_the_same_text_as_a_prompt(client: openai.OpenAI) -> None:
    first = client.completions.create(
        model="m", prompt="Once upon a time", max_tokens=12, temperature=0, logprobs=0
    )
    text = "Once upon a time" + first.choices[0].text
    again = client.completions.create(model="m", prompt=text, max_tokens=0, echo=True, logprobs=0)
    given, read = first.choices[0].logprobs, again.choices[0].logprobs
    if read.tokens[-len(given.tokens) :] != given.tokens:
        pytest.skip("the text is cut into other tokens when it is read")
    assert read.token_logprobs[-len(given.tokens) :] == pytest.approx(given.token_logprobs, abs=0.05)


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"prompt has \d{4} tokens .* holds 1024"):
        client.completions.create(model="m", prompt="a dog and a cat " * 1000)
