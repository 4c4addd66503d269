"""From a checked request to its chunks: n requests to the engine, read as one sequence of (choice, chunk).

In: prompts as token ids and the common fields. Out: chunks in the order they come, then usage and timing.
Knows nothing of JSON bodies or sockets; leaving a Generation aborts what is still running.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from narrows.engine.client import (
    Chunk,
    EngineClient,
    GenerationRequest,
    RequestStream,
    SamplingParams,
    Timing,
    draw_seed,
)
from narrows.errors import InternalError, InvalidRequest
from narrows.serve.answers import TimingBody, Usage
from narrows.serve.metrics import Metrics
from narrows.serve.protocol import GenerationFields

Value = TypeVar("Value")
SEED_END = 2**64
QUEUED_CHUNKS = 64  # of all choices; a slow reader holds the rest up in the engine's own streams


@dataclass(frozen=True, slots=True)
class Plan:
    """What to generate: every prompt `n` times, choice i of a prompt with seed + i."""

    prompts: tuple[tuple[int, ...], ...]
    template: GenerationRequest  # all but prompt and seed
    n: int
    seed: int | None

    def requests(self) -> list[GenerationRequest]:
        """A prompt gives the same answers alone and beside others: the seed depends on the choice only."""
        made = []
        for prompt_ids in self.prompts:
            for place in range(self.n):
                seed = draw_seed() if self.seed is None else (self.seed + place) % SEED_END
                sampling = replace(self.template.sampling, seed=seed)
                made.append(replace(self.template, prompt_ids=prompt_ids, sampling=sampling))
        return made


def sampling_of(fields: GenerationFields, *, top_logprobs: int | None) -> SamplingParams:
    """The engine's parameters; a field left out or null takes OpenAI's default."""
    defaults = SamplingParams()
    biases = fields.logit_bias or {}
    return SamplingParams(
        temperature=_given(fields.temperature, 1.0),
        top_k=max(0, _given(fields.top_k, 0)),
        top_p=_given(fields.top_p, defaults.top_p),
        min_p=_given(fields.min_p, defaults.min_p),
        repetition_penalty=_given(fields.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=_given(fields.presence_penalty, 0.0),
        frequency_penalty=_given(fields.frequency_penalty, 0.0),
        logit_bias=tuple((int(token), bias) for token, bias in biases.items()),
        top_logprobs=top_logprobs,
        min_tokens=fields.min_tokens or 0,
    )


def _given(value: Value | None, default: Value) -> Value:
    return default if value is None else value


@dataclass(slots=True)
class Generation:
    """The running requests of one HTTP request."""

    streams: list[RequestStream]
    metrics: Metrics
    num_prompt: int
    timings: list[Timing] = field(default_factory=list)

    async def chunks(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        """Every chunk of every choice; each choice in order. Raises the first error of any of them."""
        try:
            source = _single(self.streams[0]) if len(self.streams) == 1 else _merged(self.streams)
            async for index, chunk in source:
                if chunk.finish_reason is not None:
                    self._note_end(chunk)
                yield index, chunk
        finally:
            self.abort()

    def abort(self) -> None:
        for stream in self.streams:
            stream.abort()

    def usage(self) -> Usage:
        num_output = sum(timing.num_output for timing in self.timings)
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": num_output,
            "total_tokens": self.num_prompt + num_output,
            "timing": timing_body(self.timings),
        }

    def _note_end(self, chunk: Chunk) -> None:
        if chunk.timing is None:
            raise InternalError("the engine ended a request without its timing")
        timing = chunk.timing
        self.timings.append(timing)
        if timing.num_output > 0:
            self.metrics.observe_timing(
                queue_s=timing.queue_s, first_token_s=timing.ttft_s, per_token_s=seconds_per_token(timing)
            )


def start(engine: EngineClient, plan: Plan, metrics: Metrics, *, max_choices: int) -> Generation:
    """Submits everything or nothing."""
    requests = plan.requests()
    # More than fit into an empty queue would be asked to come back later for ever.
    most = min(max_choices, engine.info.max_running + engine.info.max_waiting)
    if len(requests) > most:
        raise InvalidRequest(
            f"{len(plan.prompts)} prompts with n={plan.n} are {len(requests)} answers; at most {most}",
            param="n",
        )
    streams: list[RequestStream] = []
    try:
        for request in requests:
            streams.append(engine.submit(request))
    except BaseException:
        for stream in streams:
            stream.abort()
        raise
    return Generation(streams, metrics, sum(len(prompt) for prompt in plan.prompts))


def seconds_per_token(timing: Timing) -> float | None:
    """TPOT: the first token is TTFT's, so it does not count here."""
    return timing.decode_s / (timing.num_output - 1) if timing.num_output > 1 else None


def timing_body(timings: Sequence[Timing]) -> TimingBody:
    """Milliseconds; of several choices the slowest of each figure."""
    per_token = [value for value in map(seconds_per_token, timings) if value is not None]
    return {
        "queue_ms": _worst_ms([timing.queue_s for timing in timings]),
        "prefill_ms": _worst_ms([timing.prefill_s for timing in timings]),
        "decode_ms": _worst_ms([timing.decode_s for timing in timings]),
        "ttft_ms": _worst_ms([timing.ttft_s for timing in timings]),
        "tpot_ms": _worst_ms(per_token) if per_token else None,
    }


def _worst_ms(seconds: Sequence[float]) -> float:
    return round(max(seconds, default=0.0) * 1e3, 3)


async def _single(stream: RequestStream) -> AsyncGenerator[tuple[int, Chunk], None]:
    async for chunk in stream:
        yield 0, chunk


async def _merged(streams: Sequence[RequestStream]) -> AsyncGenerator[tuple[int, Chunk], None]:
    queue: asyncio.Queue[tuple[int, Chunk | Exception | None]] = asyncio.Queue(QUEUED_CHUNKS)

    async def pump(index: int, stream: RequestStream) -> None:
        try:
            async for chunk in stream:
                await queue.put((index, chunk))
            await queue.put((index, None))
        except Exception as error:  # handed on to the reader, which raises it
            await queue.put((index, error))

    pumps = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        num_open = len(pumps)
        while num_open:
            index, item = await queue.get()
            if item is None:
                num_open -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield index, item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
