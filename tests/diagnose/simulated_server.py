"""A server's scheduling on a virtual clock: steps that decode what runs and read a piece of a prompt.

In: a Behaviour. Out: what an Exchange would have received. No sockets, no waiting: the experiment of a minute
runs in a second, and its figures are exact.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from narrows.bench.client import Target
from narrows.bench.exchange import Endpoint, Exchange, Receiver
from narrows.bench.server import Server
from narrows.bench.synthetic import WordRate

ENDPOINT = Endpoint("simulated", 1)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
TEMPLATE_TOKENS = 5
BLOCK = 16  # tokens that a prefix cache knows or not


@dataclass(frozen=True)
class Behaviour:
    """A step takes `step_s`, `row_s` for each token decoded, `prompt_s` and `square_s` for prompt tokens."""

    overhead_s: float = 0.010
    step_s: float = 0.018
    row_s: float = 0.0005
    prompt_s: float = 0.0002
    square_s: float = 0.0  # times the square of the position reached
    context_s: float = 0.0  # of a row, for each token before it
    max_running: int = 64
    max_waiting: int = 1000
    chunk: int | None = 128  # None: a prompt is read in one step, and nobody else is served in it
    hold: int = 1  # tokens sent at a time
    caches_prefixes: bool = False
    ignores_cancels: bool = False
    stall_every: int | None = None  # steps
    stall_s: float = 0.5
    thrash_above: int = 1000  # streams; with more, steps take the square of it
    breaks_at: int | None = None  # request number from which on the server is broken
    fault: str = "hang"  # hang, garbage, dies


@dataclass(eq=False)
class Job:
    """One request under way."""

    wire: Wire
    words: list[str]
    wanted: int
    read: int = 0
    sent: int = 0
    held: int = 0
    is_left: bool = False

    @property
    def num_prompt(self) -> int:
        return len(self.words) + TEMPLATE_TOKENS


class Wire(asyncio.WriteTransport):
    """The client's end of a connection to the simulation."""

    def __init__(self, simulation: Simulation, exchange: Exchange) -> None:
        super().__init__()
        self.exchange = exchange
        self._simulation = simulation
        self._job: Job | None = None
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        body = json.loads(bytes(data).split(b"\r\n\r\n", 1)[1])
        words = body["messages"][0]["content"].split()
        self._job = Job(self, words, body["max_tokens"])
        self._simulation.submit(self._job)

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        if self._job is not None:
            self._job.is_left = True

    def receive(self, data: bytes) -> None:
        if not self._closed:
            self.exchange.data_received(data)

    def lose(self) -> None:
        if not self._closed:
            self.exchange.connection_lost(None)


@dataclass
class Simulation:
    behaviour: Behaviour
    counts_tokens: bool = False  # as a server with /metrics does
    generated: int = 0
    num_requests: int = 0
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    known: set[tuple[str, ...]] = field(default_factory=set)
    num_steps: int = 0
    task: asyncio.Task[None] | None = None

    async def open(self, endpoint: Endpoint, receiver: Receiver) -> Exchange:
        exchange = Exchange(receiver)
        exchange.connection_made(Wire(self, exchange))
        return exchange

    async def samples(self, endpoint: Endpoint, base_path: str) -> dict[str, float]:
        return {"vllm:generation_tokens_total": float(self.generated)} if self.counts_tokens else {}

    def server(self, max_context: int | None = 4096) -> Server:
        target = Target(ENDPOINT, "/v1", "simulated", "chat", {}, timeout_s=20.0)
        return Server(target, max_context, WordRate(1.0, TEMPLATE_TOKENS, True))

    def submit(self, job: Job) -> None:
        how, loop = self.behaviour, asyncio.get_running_loop()
        number, self.num_requests = self.num_requests, self.num_requests + 1
        if how.breaks_at is not None and number >= how.breaks_at:
            self._break(job)
        else:
            loop.call_later(how.overhead_s, self._arrive, job)

    def _break(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        if self.behaviour.fault == "garbage":
            loop.call_later(0.01, job.wire.receive, HEAD + b"<html>502</html>\n\n")
            loop.call_later(0.02, job.wire.lose)
        elif self.behaviour.fault == "dies":
            loop.call_later(0.01, job.wire.receive, HEAD + event(choice("half")))
            loop.call_later(0.02, job.wire.lose)

    def _arrive(self, job: Job) -> None:
        if len(self.waiting) >= self.behaviour.max_waiting:
            job.wire.receive(b"HTTP/1.1 429 X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n")
            return
        self.waiting.append(job)
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self.waiting or self.running:
            if not self.behaviour.ignores_cancels:
                self.waiting = deque(job for job in self.waiting if not job.is_left)
                self.running = [job for job in self.running if not job.is_left]
            while self.waiting and len(self.running) < self.behaviour.max_running:
                self._start(self.waiting.popleft())
            if self.running:
                await self._step()

    def _start(self, job: Job) -> None:
        self.running.append(job)
        job.wire.receive(HEAD)
        if self.behaviour.caches_prefixes:
            blocks = [tuple(job.words[: i + BLOCK]) for i in range(0, len(job.words) - BLOCK, BLOCK)]
            job.read = BLOCK * sum(block in self.known for block in blocks)
            self.known.update(blocks)

    async def _step(self) -> None:
        """Reads a piece of the first unread prompt, and decodes whoever has read his."""
        how = self.behaviour
        unread = next((job for job in self.running if job.read < job.num_prompt), None)
        rows = [job for job in self.running if job.read >= job.num_prompt]
        took_s = how.step_s
        if unread is not None:
            piece = unread.num_prompt - unread.read
            if how.chunk is None:
                rows = []
            else:
                piece = min(piece, how.chunk)
            began, unread.read = unread.read, unread.read + piece
            took_s += how.prompt_s * piece + how.square_s * (unread.read**2 - began**2)
        took_s += sum(how.row_s + how.context_s * (job.num_prompt + job.sent) for job in rows)
        if len(rows) > how.thrash_above:
            took_s *= (len(rows) / how.thrash_above) ** 2
        self.num_steps += 1
        if how.stall_every and self.num_steps % how.stall_every == 0:
            took_s += how.stall_s
        await asyncio.sleep(took_s)
        if unread is not None and unread.read >= unread.num_prompt:
            rows = [*rows, unread]  # its last piece brings its first token
        for job in rows:
            self._token(job)

    def _token(self, job: Job) -> None:
        self.generated += 1
        job.sent, job.held = job.sent + 1, job.held + 1
        is_last = job.sent == job.wanted
        if job.held >= self.behaviour.hold or is_last:
            job.wire.receive(event(choice("w " * job.held)))
            job.held = 0
        if is_last:
            self.running.remove(job)
            usage = {"prompt_tokens": job.num_prompt, "completion_tokens": job.sent}
            job.wire.receive(event(choice("", "length")) + event({"choices": [], "usage": usage}))
            job.wire.receive(b"data: [DONE]\n\n")


def choice(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]}


def event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"
