"""Bodies and prompts of megabytes, and the routes that count tokens."""

from __future__ import annotations

import json

from serve_harness import ASK, MODEL, RunningServer, post_bytes, refused

COMPLETE = {"model": MODEL, "prompt": "a", "max_tokens": 2}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def test_a_body_over_the_limit_is_refused_with_and_without_its_length(server: RunningServer) -> None:
    limit = server.service.config.max_body_bytes
    with server.http() as http:
        assert refused(http.post(CHAT, content=b" " * (limit + 1)), 413)["code"] == "body_too_large"
        chunked = (b" " * 65536 for _ in range(limit // 65536 + 2))
        assert refused(http.post(CHAT, content=chunked), 413)
        padded = json.dumps({**ASK, "max_tokens": 1}).encode()
        assert http.post(CHAT, content=padded + b" " * (limit - len(padded))).status_code == 200
    connection = server.raw(b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999\r\n\r\n{")
    assert b" 413 " in connection.recv(65536)
    connection.close()


def test_a_prompt_of_ten_megabytes_gets_an_answer_while_others_stream(server: RunningServer) -> None:
    big = json.dumps({**COMPLETE, "prompt": "x" * 9_000_000}).encode()
    slow = server.raw(post_bytes(COMPLETIONS, big))
    with server.client() as client:
        pieces = list(client.chat.completions.create(**ASK, max_tokens=40, seed=1, stream=True))
    assert pieces[-1].choices[0].finish_reason
    assert b"more than 512 tokens" in slow.recv(65536)
    slow.close()


def test_tokens_and_text_are_each_others_inverse(server: RunningServer) -> None:
    with server.http() as http:
        tokens = http.post("/tokenize", json={"prompt": "héllo"}).json()
        assert tokens == {"tokens": [257, *"héllo".encode()], "count": 7, "max_context": 512}
        bare = http.post("/tokenize", json={"prompt": "héllo", "add_special_tokens": False}).json()["tokens"]
        assert http.post("/detokenize", json={"tokens": bare}).json() == {"prompt": "héllo"}
        chat = http.post("/tokenize", json={"messages": ASK["messages"]}).json()
        assert chat["tokens"] == [258, *b"hi", 259]
        assert refused(http.post("/tokenize", json={}))["param"] == "prompt"
        assert refused(http.post("/tokenize", json={"prompt": "a", "model": "other"}), 404)
        assert refused(http.post("/detokenize", json={"tokens": [260]}))["param"] == "tokens"
        assert refused(http.post("/detokenize", json={"tokens": [-1]}))["param"] == "tokens.0"
        assert refused(http.post("/detokenize", json={"tokens": "a"}))["param"] == "tokens"
