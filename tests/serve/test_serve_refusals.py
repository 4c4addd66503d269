"""What is refused: fields we do not honour, values out of range, bodies that are no requests. Always in
OpenAI's form.
"""

from __future__ import annotations

import json

import openai
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from serve_harness import ASK, MODEL, RunningServer, refused, running_server, wait_for

from narrows.engine.config import EngineConfig
from narrows.serve.protocol import UNSUPPORTED, ChatRequest, CompletionRequest

COMPLETE = {"model": MODEL, "prompt": "a", "max_tokens": 2}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

# A value of every field of OpenAI's that asks for something, so that it may not be passed over in silence.
DEMANDING = {
    "audio": {"voice": "alloy", "format": "mp3"},
    "best_of": 3,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_options": {"ttl": "1h"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "response_format": {"type": "json_object"},
    "service_tier": "priority",
    "store": True,
    "suffix": "the end",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "verbosity": "low",
    "web_search_options": {},
}
HARMLESS = {
    "user": "ann",
    "metadata": {"run": "7"},
    "store": False,
    "parallel_tool_calls": True,
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "service_tier": "auto",
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "tool_choice": "none",
    "reasoning_effort": "none",
    "tools": None,
}
NUMBERS = (
    "n",
    "seed",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "max_tokens",
)
CHAT_NUMBERS = (*NUMBERS, "max_completion_tokens", "top_logprobs")
COMPLETION_NUMBERS = (*NUMBERS, "logprobs", "best_of")
WRONG_NUMBERS = (
    "-1e9",
    "1e400",
    "-1e400",
    "1" + "0" * 30,
    "9" * 5000,
    "NaN",
    "Infinity",
    "true",
    '"1"',
    "[1]",
    "{}",
)


def test_every_field_of_the_openai_api_is_honoured_or_refused_by_name(server: RunningServer) -> None:
    for path, base, params, kind in (
        (CHAT, ASK, chat_create_params.CompletionCreateParamsBase, ChatRequest),
        (COMPLETIONS, COMPLETE, completion_create_params.CompletionCreateParamsBase, CompletionRequest),
    ):
        known = set(params.__annotations__) | {"stream"}
        assert set(UNSUPPORTED) == set(DEMANDING)
        assert not known - set(kind.model_fields) - set(UNSUPPORTED), "a field that nobody has decided about"
        with server.http() as http:
            for name in known & set(DEMANDING):
                error = refused(http.post(path, json={**base, name: DEMANDING[name]}))
                assert error["param"] == name
                assert name in error["message"]
                assert error["code"] == "unsupported_parameter"


def test_fields_that_ask_for_nothing_are_accepted(server: RunningServer) -> None:
    with server.http() as http:
        assert http.post(CHAT, json={**ASK, "max_tokens": 2, **HARMLESS}).status_code == 200
        nulls = dict.fromkeys(set(ChatRequest.model_fields) - {"model", "messages"})
        assert http.post(CHAT, json={**nulls, **ASK, "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
def test_unknown_fields_are_refused_by_name(server: RunningServer, path: str) -> None:
    with server.http() as http:
        assert refused(http.post(path, json={**ASK, "temprature": 1, "prompt": "a"}))["param"] in (
            "temprature",
            "messages",
        )
        assert "temprature" in refused(http.post(path, json={"temprature": 1}))["message"]


@pytest.mark.parametrize(
    ("path", "base", "name"),
    [(CHAT, ASK, name) for name in CHAT_NUMBERS]
    + [(COMPLETIONS, COMPLETE, name) for name in COMPLETION_NUMBERS],
)
def test_wrong_numbers_are_refused_in_every_field(
    server: RunningServer, path: str, base: dict, name: str
) -> None:
    with server.http() as http:
        for number in WRONG_NUMBERS:
            text = json.dumps({**base, "logprobs": True} if name == "top_logprobs" else {**base, name: None})
            body = text.replace(f'"{name}": null', f'"{name}": {number}')
            if name == "top_logprobs":
                body = text[:-1] + f', "top_logprobs": {number}}}'
            error = refused(http.post(path, content=body.encode()))
            assert error["param"] in (name, None), number
        assert http.get("/ready").status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [1] * 500_000}, "messages.0"),
        ({"messages": [{"role": "user", "content": "x"}] * 5000}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type",
        ),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "messages.0.colour"),
        ({"messages": [{f"k{i}": 0 for i in range(50_000)}]}, "messages"),
        ({"model": 7}, "model"),
        ({"model": None}, "model"),
        ({"stop": [f"s{i}" for i in range(5000)]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": "x" * 100_000}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {"1": None}}, "logit_bias.1"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(300_000)}}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"stream": 1}, "stream"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "max_completion_tokens"),
        ({"max_completion_tokens": 100_000}, "max_completion_tokens"),
        ({"min_tokens": 9, "max_tokens": 2}, "min_tokens"),
        ({"user": "u" * 10_000}, "user"),
        ({"metadata": {str(i): "x" for i in range(99)}}, "metadata"),
    ],
)
def test_wrong_fields_are_refused_by_name(server: RunningServer, fields: dict, param: str) -> None:
    with server.http() as http:
        assert refused(http.post(CHAT, json={**ASK, **fields}))["param"] == param


@pytest.mark.parametrize(
    "prompt",
    [
        [],
        [[]],
        [""] * 65,
        ["a", 1],
        [1, "a"],
        [[1], "a"],
        [-1],
        [1.5],
        [2**40],
        [True],
        [260],
        None,
        {},
        5,
        [None],
        [[[1]]],
    ],
)
def test_wrong_prompts_are_refused(server: RunningServer, prompt: object) -> None:
    with server.http() as http:
        assert refused(http.post(COMPLETIONS, json={**COMPLETE, "prompt": prompt}))["param"] == "prompt"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"model": "fake",}',
        b"{'model': 1}",
        b'{"model": "\xff\xfe"}',
        b'{"model": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b"\x00" * 1000,
        b"model=fake&prompt=a",
        b"{} {}",
        b"{" + b",".join(b'"%d": 1' % i for i in range(100_000)) + b"}",
    ],
    ids=range(17),
)
def test_bodies_that_are_no_requests_are_refused(server: RunningServer, body: bytes) -> None:
    with server.http() as http:
        for path in (CHAT, COMPLETIONS, "/tokenize", "/detokenize"):
            refused(http.post(path, content=body))


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(server: RunningServer) -> None:
    with server.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * 9000}])
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "messages"
        assert "9002" in caught.value.message
        assert "512" in caught.value.message
        with pytest.raises(openai.BadRequestError, match="more than 512") as caught:
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * 90000}])
        assert caught.value.param == "messages"
        with pytest.raises(openai.BadRequestError, match="512"):
            client.completions.create(model=MODEL, prompt=[5] * 600)


def test_more_answers_than_allowed_are_refused(server: RunningServer) -> None:
    with server.http() as http:
        assert (
            refused(http.post(COMPLETIONS, json={**COMPLETE, "prompt": ["a"] * 5, "n": 40}))["param"] == "n"
        )
    wait_for(server.is_idle)


def test_more_answers_than_the_queue_can_ever_hold_are_not_asked_to_come_back() -> None:
    config = EngineConfig(max_running=1, max_waiting=1)
    with running_server(engine_config=config) as small, small.http() as http:
        error = refused(http.post(COMPLETIONS, json={**COMPLETE, "n": 3}))
        assert (error["param"], "at most 2" in error["message"]) == ("n", True)
        assert http.post(COMPLETIONS, json={**COMPLETE, "n": 2}).status_code == 200


def test_unknown_routes_and_wrong_methods_have_the_same_form(server: RunningServer) -> None:
    with server.http() as http:
        assert refused(http.get("/v1/embeddings"), 404)["code"] == "unknown_url"
        assert refused(http.post("/v1/chat/completions/", json=ASK), 404)
        response = http.get(CHAT)
        assert refused(response, 405)["code"] == "method_not_allowed"
        assert response.headers["allow"] == "POST"
        assert refused(http.delete("/v1/models"), 405)
