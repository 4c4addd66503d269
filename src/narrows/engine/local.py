"""Generation without HTTP: `LLM(model).generate(...)`, `.stream(...)`, `.chat(...)`, and their async twins.

In: texts, token ids or conversations. Out: Completions, or streams of Chunks, which can be read with `for`
and with `async for`. Knows no server; the model and its thread end with `close` or `with`.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack, cast

from narrows.engine.client import (
    Chunk,
    EngineClient,
    FinishReason,
    GenerationRequest,
    RequestStream,
    SamplingParams,
    Timing,
    TokenRecord,
    draw_seed,
)
from narrows.engine.config import EngineConfig
from narrows.engine.load import load_engine
from narrows.errors import InternalError, Overloaded

if TYPE_CHECKING:
    from narrows.runners.options import CpuOptions

Prompt = str | Sequence[int]  # a text, or token ids
Messages = Sequence[Mapping[str, Any]]  # [{"role": "user", "content": "..."}, ...]


class PromptCodec(Protocol):
    """What a tokenizer must do for an LLM."""

    def encode(self, text: str, *, add_special: bool = True) -> list[int]: ...
    def render_chat(self, messages: Messages) -> str: ...


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer: a stream's chunks put together."""

    text: str
    tokens: tuple[TokenRecord, ...]
    prompt_tokens: tuple[TokenRecord, ...]  # where prompt_logprobs were asked for
    finish_reason: FinishReason
    stop_reason: str | int | None
    timing: Timing


class Rules(TypedDict, total=False):
    """Keywords of every method that generates: GenerationRequest's fields, with its defaults."""

    max_tokens: int | None
    stop: tuple[str, ...]
    include_stop_text: bool
    ignore_eos: bool
    prompt_logprobs: int | None


class LLM:
    """A model ready to answer. Thread-safe.

    `sampling` None draws with temperature 1 and a fresh seed; a SamplingParams is used as it is, so the same
    one gives the same answer. Without max_tokens an answer goes on to the model's end token or the end of the
    context. Errors: see EngineClient.submit and RequestStream.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        options: CpuOptions | None = None,
        config: EngineConfig | None = None,
        offline: bool = False,
    ) -> None:
        """`model`: a folder, a hub id, or None for the embedded one. `options`: weights, threads, memory."""
        loaded = load_engine(model, options=options, config=config, offline=offline)
        self._attach(loaded.client, loaded.tokenizer)

    @classmethod
    def over(cls, client: EngineClient, codec: PromptCodec) -> LLM:
        """On an engine made elsewhere, which is closed with the LLM."""
        made = cls.__new__(cls)
        made._attach(client, codec)
        return made

    @property
    def client(self) -> EngineClient:
        return self._client

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingParams | None = None,
        **rules: Unpack[Rules],
    ) -> list[Completion]:
        """One answer per prompt, in their order; any number of prompts, run together as far as they fit."""
        requests = [_request(ids, sampling, rules) for ids in self._encode_all(prompts)]
        answers: list[Completion] = []
        under_way: deque[RequestStream] = deque()
        try:
            for request in requests:
                while (stream := self._try_submit(request, has_others=bool(under_way))) is None:
                    answers.append(_complete(list(under_way[0])))
                    under_way.popleft()
                under_way.append(stream)
            while under_way:
                answers.append(_complete(list(under_way[0])))
                under_way.popleft()
        finally:
            for stream in under_way:
                stream.abort()
        return answers

    async def agenerate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingParams | None = None,
        **rules: Unpack[Rules],
    ) -> list[Completion]:
        """`generate` for an event loop; cancelling it aborts what is under way."""
        requests = [_request(ids, sampling, rules) for ids in self._encode_all(prompts)]
        answers: list[Completion] = []
        under_way: deque[RequestStream] = deque()
        try:
            for request in requests:
                while (stream := self._try_submit(request, has_others=bool(under_way))) is None:
                    answers.append(_complete([chunk async for chunk in under_way[0]]))
                    under_way.popleft()
                under_way.append(stream)
            while under_way:
                answers.append(_complete([chunk async for chunk in under_way[0]]))
                under_way.popleft()
        finally:
            for stream in under_way:
                stream.abort()
        return answers

    def stream(
        self, prompt: Prompt, sampling: SamplingParams | None = None, **rules: Unpack[Rules]
    ) -> RequestStream:
        """The answer as it comes, for `for` and `async for`; dropping the stream aborts it."""
        return self._submit(_request(self._encode(prompt), sampling, rules))

    def chat(
        self, messages: Messages, sampling: SamplingParams | None = None, **rules: Unpack[Rules]
    ) -> Completion:
        """The answer to a conversation, written out with the model's chat template."""
        return _complete(list(self.stream_chat(messages, sampling, **rules)))

    async def achat(
        self, messages: Messages, sampling: SamplingParams | None = None, **rules: Unpack[Rules]
    ) -> Completion:
        return _complete([chunk async for chunk in self.stream_chat(messages, sampling, **rules)])

    def stream_chat(
        self, messages: Messages, sampling: SamplingParams | None = None, **rules: Unpack[Rules]
    ) -> RequestStream:
        """`stream` for a conversation."""
        # The template spells out begin tokens itself.
        prompt_ids = self._codec.encode(self._codec.render_chat(messages), add_special=False)
        request = _request(tuple(prompt_ids), sampling, rules)
        return self._submit(replace(request, is_turn=True))

    def close(self) -> None:
        """Ends the engine's thread and frees the model; may be called twice."""
        self._finalizer()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _attach(self, client: EngineClient, codec: PromptCodec) -> None:
        self._client = client
        self._codec = codec
        self._finalizer = weakref.finalize(self, client.close)

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        return tuple(self._codec.encode(prompt)) if isinstance(prompt, str) else tuple(prompt)

    def _encode_all(self, prompts: Prompt | Sequence[Prompt]) -> list[tuple[int, ...]]:
        is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
        several = [cast(Prompt, prompts)] if is_one else cast(Sequence[Prompt], prompts)
        return [self._encode(prompt) for prompt in several]

    def _submit(self, request: GenerationRequest) -> RequestStream:
        """A stream that keeps the LLM: `for chunk in LLM().stream(...)` must not close its own engine."""
        stream = self._client.submit(request)
        weakref.finalize(stream, _let_go, self).atexit = False
        return stream

    def _try_submit(self, request: GenerationRequest, *, has_others: bool) -> RequestStream | None:
        """None where the queue is full and a request of our own will make room."""
        try:
            return self._client.submit(request)
        except Overloaded:
            if has_others:
                return None
            raise


def _let_go(_: LLM) -> None:
    """Was referred to as long as a stream needed it."""


def _request(prompt_ids: tuple[int, ...], sampling: SamplingParams | None, rules: Rules) -> GenerationRequest:
    sampling = sampling if sampling is not None else SamplingParams(seed=draw_seed())
    return GenerationRequest(prompt_ids=prompt_ids, sampling=sampling, **rules)


def _complete(chunks: list[Chunk]) -> Completion:
    last = chunks[-1]
    if last.finish_reason is None or last.timing is None:
        raise InternalError("a stream ended without its last chunk")
    return Completion(
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
        prompt_tokens=tuple(token for chunk in chunks for token in chunk.prompt_tokens),
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        timing=last.timing,
    )
