"""/v1/chat/completions: a conversation in, the next turn out.

In: the bytes of a ChatRequest. Out: a Prepared for answering.py. Knows the chat format; the template is the
codec's.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from narrows.engine.client import Chunk, GenerationRequest
from narrows.errors import InvalidRequest
from narrows.serve.answering import Answer, Prepared, finish_of
from narrows.serve.answers import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    FinishReason,
    Usage,
)
from narrows.serve.generation import Plan, sampling_of
from narrows.serve.logprobs import chat_logprobs
from narrows.serve.parse import parse_request
from narrows.serve.prompts import conversation_ids
from narrows.serve.protocol import ChatRequest, GenerationFields
from narrows.serve.service import Service


def prepare_chat(service: Service, body: bytes) -> Prepared:
    request = parse_request(body, ChatRequest)
    model = service.check_model(request.model)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    max_tokens, max_field = _max_tokens(request)
    top_logprobs = (request.top_logprobs or 0) if request.logprobs else None
    template = GenerationRequest(
        prompt_ids=(),
        sampling=sampling_of(request, top_logprobs=top_logprobs),
        max_tokens=max_tokens,
        stop=request.stop,
        ignore_eos=bool(request.ignore_eos),
        is_turn=True,
    )
    max_context = service.engine.info.max_context
    token_ids = conversation_ids(service.codec, request.messages, max_context=max_context)
    return Prepared(
        plan=Plan((token_ids,), template, request.n or 1, request.seed),
        dialect=ChatDialect(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model, bool(request.logprobs)),
        is_stream=bool(request.stream),
        include_usage=wants_usage(request),
        renamed={"prompt": "messages", "max_tokens": max_field},
    )


def wants_usage(request: GenerationFields) -> bool:
    options = request.stream_options
    if options is not None and not request.stream:
        raise InvalidRequest("stream_options needs stream to be true", param="stream_options")
    return options is not None and bool(options.include_usage)


def _max_tokens(request: ChatRequest) -> tuple[int | None, str]:
    old, new = request.max_tokens, request.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequest(
            f"max_tokens is {old} but max_completion_tokens is {new}; give one of them",
            param="max_completion_tokens",
        )
    return (old, "max_tokens") if new is None else (new, "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class ChatDialect:
    """Writes the answers of one chat request."""

    answer_id: str
    created_s: int
    model: str
    with_logprobs: bool

    def opening(self, index: int) -> ChatChunk:
        return self._chunk(index, {"role": "assistant", "content": ""}, logprobs=None, finish_reason=None)

    def piece(self, index: int, chunk: Chunk) -> dict[str, object] | None:
        logprobs = chat_logprobs(chunk.tokens) if self.with_logprobs and chunk.tokens else None
        finish_reason = finish_of(chunk)
        if not chunk.text and logprobs is None and finish_reason is None:
            return None
        delta: ChatDelta = {"content": chunk.text} if chunk.text or logprobs is not None else {}
        return {**self._chunk(index, delta, logprobs=logprobs, finish_reason=finish_reason)}

    def closing(self, usage: Usage) -> ChatChunk:
        return {
            "id": self.answer_id,
            "object": "chat.completion.chunk",
            "created": self.created_s,
            "model": self.model,
            "choices": [],
            "usage": usage,
        }

    def whole(self, answers: list[Answer], usage: Usage) -> ChatCompletion:
        return {
            "id": self.answer_id,
            "object": "chat.completion",
            "created": self.created_s,
            "model": self.model,
            "choices": [self._choice(index, answer) for index, answer in enumerate(answers)],
            "usage": usage,
        }

    def _choice(self, index: int, answer: Answer) -> ChatChoice:
        return {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": chat_logprobs(answer.tokens) if self.with_logprobs else None,
            "finish_reason": answer.finish_reason or "stop",
        }

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        *,
        logprobs: ChatLogprobs | None,
        finish_reason: FinishReason | None,
    ) -> ChatChunk:
        choice: ChatChunkChoice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return {
            "id": self.answer_id,
            "object": "chat.completion.chunk",
            "created": self.created_s,
            "model": self.model,
            "choices": [choice],
        }
