"""What a server is and takes, found out before anything is measured."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from narrows.bench.client import Target
from narrows.bench.clock import new_loop
from narrows.bench.fake import MODEL, Script, ScriptedServer
from narrows.bench.server import ServerUnusable, discover_model, parse_url, probe
from narrows.bench.server_figures import scrape
from narrows.errors import InvalidConfig, NarrowsError

QUICK = tuple((0.001, 1) for _ in range(5))


def run(work: Callable[[], Awaitable[object]]):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(work())


def target_of(url: str, *, timeout_s: float = 20.0, route: str = "chat", **fields: object) -> Target:
    return Target(parse_url(url, None).endpoint, "/v1", MODEL, route, fields, timeout_s)


@pytest.mark.parametrize(
    ("names_refused", "dropped"),
    [
        (True, ("ignore_eos", "stream_options")),
        # Which field the 400 was about is not told: they go one by one, the least important first.
        (False, ("ignore_eos", "temperature", "stream_options")),
    ],
)
def test_fields_a_server_does_not_take_are_dropped_and_named(names_refused, dropped) -> None:
    async def work():
        server = ScriptedServer(
            lambda body, number: Script(QUICK[:1]),
            refused_fields=("ignore_eos", "stream_options"),
            names_refused=names_refused,
        )
        async with server.running():
            fields = {"ignore_eos": True, "temperature": 0.0, "stream_options": {"include_usage": True}}
            target = replace(target_of(server.url), fields=fields)
            return await probe(target, max_context=None, wants_lengths=False)

    found = run(work)
    assert found.dropped_fields == dropped
    assert set(found.target.fields) == {"ignore_eos", "temperature", "stream_options"} - set(dropped)


def test_words_are_measured_in_the_servers_tokens() -> None:
    def script(body, number) -> Script:
        words = len(body["messages"][0]["content"].split())
        return Script(QUICK[:1], prompt_tokens=20 + round(1.5 * words))

    async def work():
        async with ScriptedServer(script, max_model_len=512).running() as server:
            model, context = await discover_model(parse_url(server.url, None))
            assert (model, context) == (MODEL, 512)
            named = await discover_model(parse_url(server.url, None), wanted=MODEL)
            other = await discover_model(parse_url(server.url, None), wanted="other")
            assert (named, other) == ((MODEL, 512), ("other", None))
            return await probe(target_of(server.url), max_context=context, wants_lengths=True)

    words = run(work).words
    assert words.is_measured
    assert words.tokens_per_word == pytest.approx(1.5)
    assert words.overhead_tokens == pytest.approx(20)
    assert words.words_for(170) == 100


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def failing(url_of, *, key=None, **options) -> str:
    async def work() -> str:
        async with ScriptedServer(lambda body, number: Script(QUICK), **options).running() as server:
            with pytest.raises(InvalidConfig) as raised:
                await discover_model(parse_url(url_of(server), key))
            return str(raised.value)

    return run(work)


def test_a_server_that_cannot_be_used_is_explained() -> None:
    assert "is the server up" in failing(lambda server: f"http://127.0.0.1:{free_port()}")
    assert "--api-key" in failing(lambda server: server.url, api_key="right", key="wrong")
    assert "--model" in failing(lambda server: f"{server.url}/api")
    assert "no connection" in failing(lambda server: "http://nowhere.invalid:1")


def test_the_first_answer_must_be_one() -> None:
    async def work(script: Script) -> str:
        async with ScriptedServer(lambda body, number: script).running() as server:
            with pytest.raises(NarrowsError) as raised:
                await probe(target_of(server.url), max_context=None, wants_lengths=False)
            return f"{type(raised.value).__name__}: {raised.value}"

    broken = run(lambda: work(Script(status=500, body=b'{"error": {"message": "no model"}}')))
    assert broken.startswith(ServerUnusable.__name__)
    assert "HTTP 500" in broken
    assert "no model" in broken
    untalkative = run(lambda: work(Script(status=400, body=b'{"error": {"message": "no chat template"}}')))
    assert "no chat template; try --route completions" in untalkative
    missing = run(lambda: work(Script(status=404, body=b'{"detail": "Not Found"}')))
    assert "try --route completions" in missing


@pytest.mark.parametrize(
    ("text", "host", "port", "base", "route"),
    [
        ("http://h:8000", "h", 8000, "/v1", None),
        ("http://h:8000/", "h", 8000, "/v1", None),
        ("http://h/v1/", "h", 80, "/v1", None),
        ("https://h/openai/v1", "h", 443, "/openai/v1", None),
        ("http://h:1/v1/chat/completions", "h", 1, "/v1", "chat"),
        ("http://h:1/v1/completions", "h", 1, "/v1", "completions"),
        ("http://[::1]:9", "::1", 9, "/v1", None),
    ],
)
def test_urls_of_servers(text, host, port, base, route) -> None:
    address = parse_url(text, "key")
    assert (address.endpoint.host, address.endpoint.port, address.base_path, address.route) == (
        host,
        port,
        base,
        route,
    )
    assert address.endpoint.headers == {"authorization": "Bearer key"}


@pytest.mark.parametrize("text", ["http://", "http://h:99999", "ftp://h", "http://u:p@h", "http://h?x=1"])
def test_what_is_no_url_is_refused(text) -> None:
    with pytest.raises(InvalidConfig):
        parse_url(text, None)
    with pytest.raises(InvalidConfig, match="key"):
        parse_url("http://h", "with\nnewline")


def test_metrics_are_read_where_there_are_some() -> None:
    async def work(metrics):
        async with ScriptedServer(lambda body, number: Script(), metrics=metrics).running() as server:
            return await scrape(parse_url(server.url, None).endpoint, "/v1")

    assert run(lambda: work(lambda: "a_total 3\n")) == {"a_total": 3.0}
    assert run(lambda: work(None)) == {}
