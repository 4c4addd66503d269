"""Reads one streamed answer of either route: which event held text, how many tokens, why it ended.

In: events of the stream with their times. Out: the fields of a Record. Takes what servers send beside the API
where it tells tokens apart: usage in every chunk (vLLM, SGLang), token ids, logprobs, llama.cpp's timings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from narrows.bench.record import ErrorKind, Piece
from narrows.bench.sse import MAX_EVENT_BYTES, EventParser

DONE = b"[DONE]"
MAX_DETAIL_CHARS = 300
Json = Mapping[str, Any]


class Answer:
    """A Receiver (exchange.py). `error` is the first thing that was wrong, or None."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.pieces: list[Piece] = []
        self.answer_s: float | None = None
        self.finish_s: float | None = None
        self.finish_reason: str | None = None
        self.num_prompt: int | None = None
        self.num_output: int | None = None
        self.server_ms: dict[str, float] | None = None
        self.retry_after_s: float | None = None
        self.has_done = False
        self.error: ErrorKind | None = None
        self.detail = ""
        self._parser = EventParser()
        self._is_stream = False
        self._body = b""  # of an answer that is no stream
        self._saw_reasoning = False
        self._num_counted = 0

    @property
    def is_complete(self) -> bool:
        return self.has_done or self._parser.is_overlong

    def on_status(self, at_s: float, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self._is_stream = status == 200 and headers.get("content-type", "").startswith("text/event-stream")
        self.retry_after_s = _seconds_of(headers.get("retry-after", ""))

    def on_body(self, at_s: float, data: bytes) -> None:
        if not self._is_stream:
            if len(self._body) < 65536:
                self._body += data
            return
        for event in self._parser.feed(data):
            self._on_event(at_s, event)

    def close(self) -> None:
        """The answer has ended in good order, as far as HTTP can tell: judges the rest."""
        if self.status != 200:
            self.fail("http", _message(self._body))
        elif not self._is_stream:
            self.fail("not_a_stream", _message(self._body))
        elif self._parser.is_overlong:
            self.fail("malformed", f"an event of over {MAX_EVENT_BYTES} bytes")
        elif self._parser.num_odd_lines or (self._parser.is_cut and not self.has_done):
            self.fail("malformed", f"{self._parser.num_odd_lines} lines were no part of an event")
        elif not self.has_done and self.finish_reason is None:
            self.fail("closed", "the stream ended without [DONE] and without a finish reason")
        elif not self.pieces:
            self.fail("no_tokens", f"the answer ended ({self.finish_reason or 'no reason'}) without a token")

    def fail(self, kind: ErrorKind, detail: str) -> None:
        """Only the first thing that goes wrong is kept: what follows is usually its consequence."""
        if self.error is None:
            self.error, self.detail = kind, detail[:MAX_DETAIL_CHARS]

    def _on_event(self, at_s: float, data: bytes) -> None:
        if data == DONE:
            self.has_done = True
            return
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            self.fail("malformed", f"an event is no JSON object: {data[:80]!r}")
            return
        if body.get("error"):
            self.fail("error_event", _message(data))
            return
        try:
            self._on_chunk(at_s, body)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            self.fail("malformed", f"an event has the wrong shape ({error!r}): {data[:80]!r}")

    def _on_chunk(self, at_s: float, body: Json) -> None:
        usage, choices = body.get("usage"), body.get("choices") or []
        counted = None
        if usage:
            self.num_prompt = _count_of(usage, "prompt_tokens") or self.num_prompt
            counted = _count_of(usage, "completion_tokens")
            self.num_output = counted or self.num_output
        elif (body.get("timings") or {}).get("predicted_n") is not None:
            counted = int(body["timings"]["predicted_n"])  # llama.cpp with timings_per_token: so far
        self._server_figures(body)
        for choice in choices:
            text, is_reasoning = _text_of(choice)
            tokens = _tokens_of(choice)
            if tokens is None and counted is not None and self._is_counted_along():
                tokens = counted - self._num_counted
            if text or (tokens is not None and tokens > 0):
                self.pieces.append(Piece(at_s, tokens, _stamps_of(body, tokens)))
                self._num_counted += tokens or 0
                self._note_answer(at_s, is_reasoning)
            if choice.get("finish_reason"):
                self.finish_reason = str(choice["finish_reason"])
                self.finish_s = at_s

    def _is_counted_along(self) -> bool:
        """Usage came with every event so far. Where only the last one has it, it is the sum, no chunk's
        count.
        """
        return all(piece.tokens is not None for piece in self.pieces)

    def _note_answer(self, at_s: float, is_reasoning: bool) -> None:
        if is_reasoning:
            self._saw_reasoning = True
        elif self._saw_reasoning and self.answer_s is None:
            self.answer_s = at_s

    def _server_figures(self, body: Json) -> None:
        """What the server says of its own times: ours in usage.timing, llama.cpp's in timings."""
        timing = (body.get("usage") or {}).get("timing")
        if timing:
            found = {"ttft": timing.get("ttft_ms"), "tpot": timing.get("tpot_ms")}
        elif timings := body.get("timings"):
            # llama.cpp's prompt_ms begins when the request gets its slot: it is no TTFT under load.
            found = {"prefill": timings.get("prompt_ms"), "tpot": timings.get("predicted_per_token_ms")}
        else:
            return
        self.server_ms = {name: float(value) for name, value in found.items() if value is not None}


def _count_of(usage: Json, name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text_of(choice: Json) -> tuple[str, bool]:
    """The text of a chunk and whether it is reasoning. A chunk with only a role has none."""
    delta = choice.get("delta")
    if delta is None:
        return choice.get("text") or "", False
    if content := delta.get("content"):
        return content, False
    if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
        return reasoning, True
    calls = delta.get("tool_calls") or []
    return "".join(_call_text(call) for call in calls) or delta.get("refusal") or "", False


def _call_text(call: Json) -> str:
    function = call.get("function") or {}
    return (function.get("name") or "") + (function.get("arguments") or "")


def _tokens_of(choice: Json) -> int | None:
    """How many tokens a chunk holds, where it says so."""
    if (token_ids := choice.get("token_ids")) is not None:
        return len(token_ids)
    logprobs = choice.get("logprobs")
    if not logprobs:
        return None
    if logprobs.get("content") is not None:
        return len(logprobs["content"])
    return len(logprobs["tokens"]) if logprobs.get("tokens") is not None else None


def _stamps_of(body: Json, tokens: int | None) -> tuple[float, ...] | None:
    """The server's stamp of each token of a chunk. llama.cpp stamps a chunk's last token
    (`timings_per_token`): enough where it holds one.
    """
    timings = body.get("timings")
    if timings and tokens == 1 and "predicted_ms" in timings:
        return (timings["predicted_ms"] / 1e3,)
    return None


def _seconds_of(retry_after: str) -> float | None:
    """RFC 9110, 10.2.3: seconds, or a date, which is left out: it would be by the server's clock."""
    text = retry_after.strip()
    return float(text) if text.isascii() and text.isdigit() else None


def _message(body: bytes) -> str:
    """The server's own words out of an error body of any kind."""
    text = body.decode(errors="replace").strip()
    try:
        value = json.loads(text)
        error = value.get("error", value)
        return str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        return " ".join(text.split())
