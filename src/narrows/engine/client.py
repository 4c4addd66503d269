"""What everyone outside the engine knows of it: submit a request, read its chunks, abort it, ask how it is.

One local engine (worker.py) and, later, twenty replicas look the same behind these Protocols. Values only:
knows nothing of threads, blocks, tokenizers or HTTP. Errors are of narrows.errors; `RequestStream` says which
come when.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from narrows.engine.request import FinishReason, GenerationRequest
from narrows.engine.step import SamplingParams

__all__ = [
    "Chunk",
    "EngineClient",
    "EngineInfo",
    "EngineStats",
    "FinishReason",
    "GenerationRequest",
    "RequestStream",
    "SamplingParams",
    "Timing",
    "TokenCandidate",
    "TokenRecord",
    "draw_seed",
]


def draw_seed() -> int:
    """A fresh unsigned 64-bit seed, for callers whose user gave none."""
    return secrets.randbits(64)


@dataclass(frozen=True, slots=True)
class TokenCandidate:
    """One of the n most likely tokens at a position. `data`: its own bytes, maybe part of a character."""

    token_id: int
    data: bytes
    logprob: float

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """One token of the answer (or prompt), with its natural log-probability where logprobs were asked for.

    `offset` is the place in the answer's text (characters) where the token begins; a token that only
    continues or begins a character not yet whole begins where that character will stand.
    """

    token_id: int
    data: bytes  # the token's own bytes: b"" for special tokens, maybe part of a character
    offset: int
    logprob: float | None = None  # None: not asked for, or the prompt's first token
    top: tuple[TokenCandidate, ...] = ()  # best first

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's time went. `num_output` counts every token drawn, also those a stop cuts away."""

    num_prompt: int
    num_output: int
    num_preempted: int  # how often its KV blocks were taken away and computed again
    queue_s: float  # submit until its first step began
    prefill_s: float  # first step's beginning until the first token
    decode_s: float  # first token until the last
    ttft_s: float  # submit until the first token; 0 where no token came
    total_s: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text newly released, in whole characters, and exactly the tokens cut together with it.

    The last chunk of a request, and only that, has `finish_reason` and `timing`; its text may be empty. An
    end token and whatever a stop string cuts away appear in neither text nor tokens.
    """

    text: str
    tokens: tuple[TokenRecord, ...] = ()
    prompt_tokens: tuple[TokenRecord, ...] = ()  # once, in the first chunk, where `prompt_logprobs` was set
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = (
        None  # the stop string or token id that ended it; None: the model's own end
    )
    timing: Timing | None = None


class RequestStream(Protocol):
    """The chunks of one request, read either with `for` or with `async for`, by one reader.

    After the last chunk the iteration ends. Chunks already made come before an error. Raises RequestAborted
    where the engine was closed, InvalidModel where the model gave numbers that are not finite, InternalError
    where the engine failed. `abort` (from any thread) gives a last chunk with finish_reason "abort". Leaving
    `with`/`async with`, cancelling the task that awaits a chunk, or dropping the stream aborts the request.
    """

    @property
    def request_id(self) -> int: ...
    def abort(self) -> None: ...
    def __iter__(self) -> Iterator[Chunk]: ...
    def __next__(self) -> Chunk: ...
    def __aiter__(self) -> AsyncIterator[Chunk]: ...
    async def __anext__(self) -> Chunk: ...
    def __enter__(self) -> RequestStream: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    async def __aenter__(self) -> RequestStream: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What does not change while an engine lives."""

    vocab_size: int
    max_context: int  # tokens of one request, prompt and answer together
    max_running: int
    max_waiting: int
    block_size: int  # tokens in a KV block
    num_blocks: int
    weight_bytes_per_step: int
    kv_bytes_per_token: int
    description: dict[str, str] = field(default_factory=dict)  # for humans: weights, threads, isa, ...


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot; the `_total` fields only grow."""

    is_healthy: bool
    is_accepting: bool
    num_running: int
    num_waiting: int
    num_blocks: int
    num_used_blocks: int
    steps_total: int
    steps_by_batch_total: tuple[int, ...]  # [i]: steps of more than 2 ** (i - 1) and at most 2 ** i requests
    sequences_total: int  # summed over steps: / steps_total = the mean batch
    step_tokens_total: int  # tokens run, prompt, output and recomputed ones
    prompt_tokens_total: int  # of requests admitted
    output_tokens_total: int
    drafted_tokens_total: int  # guesses verified in steps (speculation)
    accepted_tokens_total: int  # of those, right: tokens that took no step of their own
    preempted_total: int
    finished_stop_total: int
    finished_length_total: int
    finished_abort_total: int
    failed_total: int
    refused_total: int  # Overloaded
    run_s_total: float  # inside Runner.run
    busy_s_total: float  # inside steps, Runner.run included: the difference is the engine's own overhead


class EngineClient(Protocol):
    """Runs requests. Thread-safe; nothing here blocks on a step but `drain` and `close`."""

    @property
    def info(self) -> EngineInfo: ...

    def submit(self, request: GenerationRequest) -> RequestStream:
        """Checks and queues a request; returns at once, also inside an event loop.

        Raises InvalidRequest or ContextTooLong (the request), Overloaded (queue full), RequestAborted
        (draining or closed), InternalError (the engine has failed).
        """

    def stats(self) -> EngineStats: ...

    def check_health(self) -> None:
        """Raises InternalError where the engine has failed, RequestAborted where it is closed."""

    def drain(self, timeout_s: float) -> bool:
        """Refuses new requests, waits for those under way; False where some were left. Blocks the caller."""

    def close(self) -> None:
        """Ends the engine; requests under way raise RequestAborted. May be called twice."""
