"""The way of every generating request: read, prepare, submit, then one JSON body or a stream of events.

In: a Starlette request and a `prepare` that turns its bytes into a Prepared. Out: the response. Knows no
body format: that is the Dialect's (chat.py, completions.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from narrows.engine.client import Chunk, TokenRecord
from narrows.errors import InternalError, InvalidRequest, RequestAborted
from narrows.serve.answers import FinishReason, TimingBody, Usage
from narrows.serve.generation import Generation, Plan, start, timing_body
from narrows.serve.limits import read_body
from narrows.serve.service import Service
from narrows.serve.stream import ClientGone, EventStream, event, unless_disconnected

TIMING_HEADER = "x-narrows-timing"
CLIENT_CLOSED_REQUEST = 499  # nobody reads it; it is for the metrics


@dataclass(slots=True)
class Answer:
    """One whole choice."""

    text: str = ""
    tokens: list[TokenRecord] = field(default_factory=list)
    prompt_tokens: tuple[TokenRecord, ...] = ()
    finish_reason: FinishReason | None = None


class Dialect(Protocol):
    """How one API writes its answers; made for one request."""

    def opening(self, index: int) -> Mapping[str, object] | None:
        """A chunk to send before the first token."""

    def piece(self, index: int, chunk: Chunk) -> dict[str, object] | None:
        """A chunk of a stream; None where there is nothing to say."""

    def closing(self, usage: Usage) -> Mapping[str, object]:
        """The last chunk, where usage was asked for."""

    def whole(self, answers: list[Answer], usage: Usage) -> Mapping[str, object]: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that has passed every check but the engine's. `renamed`: the engine's names of fields → the
    caller's.
    """

    plan: Plan
    dialect: Dialect
    is_stream: bool
    include_usage: bool
    renamed: Mapping[str, str]


async def respond(
    service: Service, request: Request, prepare: Callable[[bytes], Prepared]
) -> Response | EventStream:
    config = service.config
    try:
        body = await read_body(request, max_bytes=config.max_body_bytes, timeout_s=config.body_timeout_s)
        prepared = await service.off_loop(lambda: prepare(body), num_bytes=len(body))
        generation = _start(service, prepared)
        if prepared.is_stream:
            return EventStream(
                _events(prepared, generation),
                headers={},
                ping_interval_s=config.ping_interval_s,
                send_timeout_s=config.send_timeout_s,
            )
        answers = await unless_disconnected(_collect(generation), request.receive)
    except (ClientGone, ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    usage = generation.usage()
    headers = {TIMING_HEADER: timing_header(usage["timing"])}
    return JSONResponse(prepared.dialect.whole(answers, usage), headers=headers)


def timing_header(timing: TimingBody) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in timing.items() if isinstance(value, float))


def finish_of(chunk: Chunk) -> FinishReason | None:
    """The engine ends a request with "abort" only when we asked it to, and then nobody reads on."""
    if chunk.finish_reason == "abort":
        raise RequestAborted("the request was cancelled before its answer was whole; send it again")
    return chunk.finish_reason


def _start(service: Service, prepared: Prepared) -> Generation:
    try:
        return start(service.engine, prepared.plan, service.metrics, max_choices=service.config.max_choices)
    except InvalidRequest as error:
        error.param = prepared.renamed.get(error.param or "", error.param)
        raise


async def _collect(generation: Generation) -> list[Answer]:
    answers = [Answer() for _ in generation.streams]
    pieces: list[list[str]] = [[] for _ in answers]
    async with aclosing(generation.chunks()) as chunks:
        async for index, chunk in chunks:
            answer = answers[index]
            pieces[index].append(chunk.text)
            answer.tokens.extend(chunk.tokens)
            answer.prompt_tokens += chunk.prompt_tokens
            answer.finish_reason = finish_of(chunk) or answer.finish_reason
    for answer, texts in zip(answers, pieces, strict=True):
        answer.text = "".join(texts)
        if answer.finish_reason is None:
            raise InternalError("the engine ended an answer without a reason")
    return answers


async def _events(prepared: Prepared, generation: Generation) -> AsyncGenerator[bytes, None]:
    """The events of a stream. With `include_usage` every chunk but the last has a null usage, as OpenAI's
    have.
    """
    dialect = prepared.dialect
    no_usage = {"usage": None} if prepared.include_usage else {}
    try:
        for index in range(len(generation.streams)):
            opening = dialect.opening(index)
            if opening is not None:
                yield event({**opening, **no_usage})
        async with aclosing(generation.chunks()) as chunks:
            async for index, chunk in chunks:
                piece = dialect.piece(index, chunk)
                if piece is not None:
                    if chunk.timing is not None:
                        piece["timing"] = timing_body([chunk.timing])
                    yield event({**piece, **no_usage})
        if prepared.include_usage:
            yield event(dialect.closing(generation.usage()))
    finally:
        # Also where the client left before the first chunk was asked for.
        generation.abort()
