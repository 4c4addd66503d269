"""Engines on FakeRunner and answers collected from them, shared by the tests of this folder."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from narrows.engine.client import Chunk, GenerationRequest, SamplingParams, TokenRecord
from narrows.engine.config import EngineConfig
from narrows.engine.engine import Engine, Output
from narrows.engine.fake import ByteTokenizer, FakeRunner
from narrows.engine.worker import EngineWorker
from narrows.errors import NarrowsError

MakeWorker = Callable[..., EngineWorker]


def make_engine(runner: FakeRunner | None = None, **settings) -> Engine:
    """Without speculation unless asked for: it goes by the clock, and tests count steps."""
    tokenizer = ByteTokenizer()
    config = EngineConfig(**{"speculation": "off", **settings})
    return Engine(runner or FakeRunner(), tokenizer, eos_ids=tokenizer.eos_ids, config=config)


def make_worker(runner: FakeRunner | None = None, **settings) -> EngineWorker:
    return EngineWorker(make_engine(runner, **settings))


def ask(prompt: str | Sequence[int] = "once", max_tokens: int | None = 8, **fields) -> GenerationRequest:
    """A request; fields of SamplingParams may be given beside its own."""
    own = {name: fields.pop(name) for name in list(fields) if name in GenerationRequest.__slots__}
    prompt_ids = tuple(prompt.encode() if isinstance(prompt, str) else prompt)
    return GenerationRequest(prompt_ids, SamplingParams(**fields), max_tokens, **own)


@dataclass
class Answer:
    """All chunks of a request put together."""

    text: str = ""
    tokens: list[TokenRecord] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    error: NarrowsError | None = None

    def add(self, chunk: Chunk) -> None:
        assert not self.chunks or self.chunks[-1].finish_reason is None, "a chunk after the last"
        self.text += chunk.text
        self.tokens += chunk.tokens
        self.chunks.append(chunk)

    @property
    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    @property
    def finish_reason(self) -> str | None:
        return self.chunks[-1].finish_reason if self.chunks else None

    @property
    def gist(self) -> tuple[object, ...]:
        """What must be the same however a request is run."""
        last = self.chunks[-1]
        assert last.timing is not None
        prompt_tokens = [token for chunk in self.chunks for token in chunk.prompt_tokens]
        num_output = last.timing.num_output
        return self.text, self.tokens, prompt_tokens, last.finish_reason, last.stop_reason, num_output


def collect(chunks: Iterable[Chunk]) -> Answer:
    answer = Answer()
    for chunk in chunks:
        answer.add(chunk)
    return answer


class Driver:
    """Steps an engine in this thread, checking it after every step."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers: dict[int, Answer] = {}

    def submit(self, request_id: int, request: GenerationRequest) -> None:
        self.answers[request_id] = Answer()
        output = self.engine.add(self.engine.prepare(request_id, request))
        if output is not None:
            self._take(output)

    def abort(self, request_id: int) -> None:
        output = self.engine.abort(request_id)
        self.engine.scheduler.check_integrity()
        if output is not None:
            self._take(output)

    def step(self) -> None:
        for output in self.engine.step():
            self._take(output)
        scheduler = self.engine.scheduler
        scheduler.check_integrity()
        assert len(scheduler.running) <= self.engine.info.max_running
        queue = [request.request_id for request in (*scheduler.running, *scheduler.waiting)]
        assert queue == [request_id for request_id in self.answers if request_id in queue], "out of turn"

    def finish(self, *, max_steps: int = 10_000) -> None:
        for _ in range(max_steps):
            if not self.engine.has_work:
                break
            self.step()
        assert not self.engine.has_work, f"work is left after {max_steps} steps"
        self.engine.check_idle()
        assert self.engine.scheduler.pool.num_used == 0

    def _take(self, output: Output) -> None:
        answer = self.answers[output.request_id]
        if output.chunk is not None:
            answer.add(output.chunk)
        else:
            answer.error = output.error


def answer_alone(request: GenerationRequest, runner: FakeRunner | None = None) -> Answer:
    """The answer of a request with a whole engine to itself and plenty of blocks."""
    driver = Driver(make_engine(runner or FakeRunner(num_blocks=256, block_size=4)))
    driver.submit(1, request)
    driver.finish()
    return driver.answers[1]


def wait_until(is_true: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.001)


async def collect_async(stream: AsyncIterator[Chunk]) -> Answer:
    answer = Answer()
    async for chunk in stream:
        answer.add(chunk)
    return answer
