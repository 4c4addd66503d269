"""/v1/completions: texts or token ids in, their continuations out.

In: the bytes of a CompletionRequest. Out: a Prepared for answering.py. With `echo` the prompt, and its
logprobs where they were asked for, stand before the answer.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from narrows.engine.client import Chunk, GenerationRequest, TokenRecord
from narrows.errors import InvalidRequest
from narrows.serve.answering import Answer, Prepared, finish_of
from narrows.serve.answers import Completion, CompletionLogprobs, FinishReason, Usage
from narrows.serve.chat import wants_usage
from narrows.serve.generation import Plan, sampling_of
from narrows.serve.logprobs import completion_logprobs, joined
from narrows.serve.parse import parse_request
from narrows.serve.problems import UnsupportedField
from narrows.serve.prompts import text_ids
from narrows.serve.protocol import UNSUPPORTED, CompletionRequest
from narrows.serve.service import Service

DEFAULT_MAX_TOKENS = 16  # OpenAI's


def prepare_completion(service: Service, body: bytes) -> Prepared:
    request = parse_request(body, CompletionRequest)
    model = service.check_model(request.model)
    n = request.n or 1
    if request.best_of is not None and request.best_of != n:
        message = f"best_of is {request.best_of} but n is {n}: {UNSUPPORTED['best_of']}"
        raise UnsupportedField(message, param="best_of")
    template = GenerationRequest(
        prompt_ids=(),
        sampling=sampling_of(request, top_logprobs=request.logprobs),
        max_tokens=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        stop=request.stop,
        ignore_eos=bool(request.ignore_eos),
        prompt_logprobs=request.logprobs if request.echo else None,
    )
    prompts = tuple(_prompt_ids(service, prompt) for prompt in request.prompt)
    echoes = tuple(
        _echo(service, prompt) if request.echo else "" for prompt in request.prompt for _ in range(n)
    )
    return Prepared(
        plan=Plan(prompts, template, n, request.seed),
        dialect=CompletionDialect(
            f"cmpl-{uuid.uuid4().hex}", int(time.time()), model, request.logprobs is not None, echoes, set()
        ),
        is_stream=bool(request.stream),
        include_usage=wants_usage(request),
        renamed={"top_logprobs": "logprobs", "prompt_logprobs": "logprobs"},
    )


def _prompt_ids(service: Service, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return text_ids(service.codec, prompt, max_context=service.engine.info.max_context)
    check_token_ids(service, prompt, param="prompt")
    return prompt


def check_token_ids(service: Service, token_ids: tuple[int, ...], *, param: str) -> None:
    vocab_size = service.engine.info.vocab_size
    if token_ids and max(token_ids) >= vocab_size:
        raise InvalidRequest(
            f"the token id {max(token_ids)} does not exist; this model's ids run from 0 to {vocab_size - 1}",
            param=param,
        )


def _echo(service: Service, prompt: str | tuple[int, ...]) -> str:
    return prompt if isinstance(prompt, str) else service.codec.decode(prompt)


@dataclass(frozen=True, slots=True)
class CompletionDialect:
    """Writes the answers of one completion request."""

    answer_id: str
    created_s: int
    model: str
    with_logprobs: bool
    echoes: tuple[str, ...]  # per choice; "" where none was asked for
    echoed: set[int]  # choices whose echo a stream has sent

    def opening(self, index: int) -> None:
        return None

    def piece(self, index: int, chunk: Chunk) -> dict[str, object] | None:
        echo = "" if index in self.echoed else self.echoes[index]
        self.echoed.add(index)
        text, finish_reason = echo + chunk.text, finish_of(chunk)
        has_tokens = self.with_logprobs and bool(chunk.tokens or chunk.prompt_tokens)
        if not text and not has_tokens and finish_reason is None:
            return None
        logprobs = self._logprobs(index, chunk.prompt_tokens, chunk.tokens) if has_tokens else None
        return {**self._body(index, text, logprobs, finish_reason)}

    def closing(self, usage: Usage) -> Completion:
        return {**self._frame(), "choices": [], "usage": usage}

    def whole(self, answers: list[Answer], usage: Usage) -> Completion:
        body = self._frame()
        for index, answer in enumerate(answers):
            logprobs = (
                self._logprobs(index, answer.prompt_tokens, answer.tokens) if self.with_logprobs else None
            )
            text = self.echoes[index] + answer.text
            body["choices"] += self._body(index, text, logprobs, answer.finish_reason)["choices"]
        body["usage"] = usage
        return body

    def _logprobs(
        self, index: int, prompt: tuple[TokenRecord, ...], tokens: list[TokenRecord] | tuple[TokenRecord, ...]
    ) -> CompletionLogprobs:
        return joined(
            completion_logprobs(prompt, offset=0), completion_logprobs(tokens, offset=len(self.echoes[index]))
        )

    def _body(
        self, index: int, text: str, logprobs: CompletionLogprobs | None, finish_reason: FinishReason | None
    ) -> Completion:
        body = self._frame()
        body["choices"].append(
            {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        )
        return body

    def _frame(self) -> Completion:
        return {
            "id": self.answer_id,
            "object": "text_completion",
            "created": self.created_s,
            "model": self.model,
            "choices": [],
        }
