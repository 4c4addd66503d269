"""Nothing is kept of a request that has ended, however it ended: of each kind hundreds are served."""

from __future__ import annotations

import gc
import http.client
import itertools
import json
import sys
from collections.abc import Callable

import pytest
from serve_harness import ASK, MODEL, RunningServer, post_bytes, running_server, wait_for

from narrows.engine.config import EngineConfig

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MAX_BODY_BYTES = 4096
WARM_UP, NUM_REQUESTS = 300, 600
MAX_KEPT = 300  # objects or blocks of Python's allocator; one of each request would be NUM_REQUESTS


def ask(server: RunningServer, path: str, body: object, *, expect: int = 200) -> None:
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, body=data, headers={"content-type": "application/json"})
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status == expect


def chat(**fields: object) -> Callable[[RunningServer], None]:
    return lambda server: ask(server, CHAT, {**ASK, "max_tokens": 3, **fields})


def wrong(status: int, *, path: str = CHAT, **fields: object) -> Callable[[RunningServer], None]:
    return lambda server: ask(server, path, {**ASK, **fields}, expect=status)


def complete(server: RunningServer) -> None:
    body = {"model": MODEL, "prompt": ["one", "two"], "max_tokens": 3, "logprobs": 3, "echo": True}
    ask(server, COMPLETIONS, body)


def leave(server: RunningServer) -> None:
    body = {**ASK, "max_tokens": 400, "ignore_eos": True, "stream": True}
    connection = server.raw(post_bytes(CHAT, json.dumps(body).encode()))
    assert connection.recv(100)
    connection.close()


def vanish(server: RunningServer) -> None:
    server.raw(post_bytes(CHAT, b"x" * 100)[:-50]).close()


NUMBERS = itertools.count()


def ask_anew(server: RunningServer) -> None:
    """A text that was never sent before."""
    messages = [{"role": "user", "content": f"number {next(NUMBERS)}"}]
    ask(server, CHAT, {**ASK, "messages": messages, "max_tokens": 1})


KINDS: dict[str, Callable[[RunningServer], None]] = {
    "answer": chat(),
    "new text": ask_anew,
    "stream": chat(stream=True, stream_options={"include_usage": True}),
    "logprobs": chat(logprobs=True, top_logprobs=3),
    "choices": chat(n=3, seed=1),
    "rules": chat(stop=["e", "qu"], stream=True, presence_penalty=0.5, logit_bias={"97": -1.5}),
    "completion": complete,
    "tokenize": lambda server: ask(server, "/tokenize", {"prompt": "some text"}),
    "bad field": wrong(400, temperature="hot"),
    "no model": wrong(404, model="nobody"),
    "no route": wrong(404, path="/v1/nothing"),
    "too large": lambda server: ask(server, CHAT, b" " * (MAX_BODY_BYTES + 1), expect=413),
    "queue full": wrong(429, n=12),
    "leaves": leave,
    "vanishes": vanish,
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_memory_is_kept_of_a_request(kind: str) -> None:
    config = EngineConfig(speculation="off", max_running=8, max_waiting=8)
    with running_server(engine_config=config, max_body_bytes=MAX_BODY_BYTES) as server:
        if kind == "queue full":
            server.runner.gate.clear()
            held = [server.raw(post_bytes(CHAT, json.dumps(ASK).encode())) for _ in range(8)]
            wait_for(lambda: server.engine.stats().num_running + server.engine.stats().num_waiting == 8)

        def serve(count: int) -> tuple[int, int]:
            """(tracked objects, blocks of Python's allocator) when they have ended."""
            for _ in range(count):
                KINDS[kind](server)
            KINDS["tokenize"](server)  # connections are taken in turn: all before it were
            idle = 8 if kind == "queue full" else 0
            wait_for(lambda: server.service.num_under_way == idle, 60)
            server.runner.params.clear()  # kept for other tests
            gc.collect()
            return len(gc.get_objects()), sys.getallocatedblocks()

        objects, blocks = serve(WARM_UP)
        more_objects, more_blocks = serve(NUM_REQUESTS)
        if kind == "queue full":
            for connection in held:
                connection.close()
            server.runner.gate.set()
    assert more_objects - objects < MAX_KEPT
    assert more_blocks - blocks < MAX_KEPT
