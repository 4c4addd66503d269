"""Answers with guessed tokens over HTTP: several tokens in a chunk, the same text and logprobs."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from serve_harness import ASK, RunningServer, running_server

from narrows.engine.config import EngineConfig
from narrows.engine.fake import FakeRunner, reply_with
from narrows.engine.speculation import Speculator

pytest.importorskip("narrows._core", reason="the native core is not built")

VERSE = "row row row your boat gently down the stream " * 4
OPTIONS: dict[str, Any] = {
    **ASK,
    "max_tokens": 150,
    "logprobs": True,
    "top_logprobs": 2,
    "stop": ["am row g"],
}


def all_of(_: Speculator, chances: list[list[float]], plan: object, max_rows: int) -> list[int]:
    return [len(of_one) for of_one in chances]


def metric(server: RunningServer, name: str) -> float:
    with server.http() as http:
        lines = http.get("/metrics").text.splitlines()
    (value,) = [line.split()[-1] for line in lines if line.startswith(name)]
    return float(value)


def test_a_chunk_of_several_tokens_lists_them_all() -> None:
    answers = []
    for kind in ("off", "on"):
        config = EngineConfig(speculation=kind)  # type: ignore[arg-type]
        runner = FakeRunner(choose=reply_with(VERSE))
        with (
            mock.patch.object(Speculator, "_best_counts", all_of),
            mock.patch("narrows.engine.speculation.LEAST_GAIN", -1e9),
            running_server(runner=runner, engine_config=config) as server,
            server.client() as client,
        ):
            whole = client.chat.completions.create(**OPTIONS)
            chunks = list(client.chat.completions.create(**OPTIONS, stream=True))
            drafted = metric(server, "narrows_drafted_tokens_total")
            accepted = metric(server, "narrows_accepted_tokens_total")
        assert whole.choices[0].logprobs is not None
        assert whole.choices[0].logprobs.content is not None
        pieces = [chunk.choices[0] for chunk in chunks if chunk.choices]
        counts = [
            len(piece.logprobs.content)
            for piece in pieces
            if piece.logprobs is not None and piece.logprobs.content is not None
        ]
        streamed = [
            token
            for piece in pieces
            if piece.logprobs is not None and piece.logprobs.content is not None
            for token in piece.logprobs.content
        ]
        assert "".join(piece.delta.content or "" for piece in pieces) == whole.choices[0].message.content
        assert streamed == whole.choices[0].logprobs.content
        assert whole.usage is not None
        answers.append((whole.choices[0], whole.usage.completion_tokens))
        assert (0 < accepted <= drafted) == (kind == "on")
        assert max(counts) > 1 or kind == "off"  # a slow reader gets several in a chunk anyway
    assert answers[0] == answers[1]
