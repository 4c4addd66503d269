"""A virtual clock and a scripted connection: the client's arithmetic without a socket and without waiting.
Records made by hand, and results of them.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from narrows.bench.document import Measured, Result
from narrows.bench.exchange import Endpoint, Exchange, ExchangeFailed, Receiver
from narrows.bench.load import Phase
from narrows.bench.metrics import summarize
from narrows.bench.record import Piece, Record
from narrows.bench.saturation import judge
from narrows.bench.server_figures import compare as cross_check

Outcome = TypeVar("Outcome")
ENDPOINT = Endpoint("127.0.0.1", 1)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


class VirtualLoop(asyncio.SelectorEventLoop):
    """Sleeping advances the clock at once. Nothing but timers may be waited for."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now_s


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None):
        if timeout is None:
            raise RuntimeError("everything waits and nothing will ever happen")
        self._loop.now_s += max(0.0, timeout)
        return super().select(0)


def run_virtually(work: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work())


class Wire(asyncio.WriteTransport):
    """Answers a request with `script`: (seconds after the request, bytes); b"" closes the connection."""

    def __init__(self, exchange: Exchange, script: Sequence[tuple[float, bytes]]) -> None:
        super().__init__()
        self._exchange = exchange
        self._script = script
        self._closed = False
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)
        loop = asyncio.get_running_loop()
        at_once: dict[float, bytes] = {}
        for delay_s, answer in self._script:
            at_once[delay_s] = at_once.get(delay_s, b"") + answer  # timers of one time have no order
        for delay_s, answer in at_once.items():
            if answer:
                loop.call_later(delay_s, self._exchange.data_received, answer)
            else:
                loop.call_later(delay_s, self._exchange.connection_lost, None)

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True


class Wires:
    """Opens scripted connections; `connect_s`: how long that takes. `choose`: number of the request →
    script.
    """

    def __init__(
        self, choose: Callable[[int], Sequence[tuple[float, bytes]]], *, connect_s: float = 0.0
    ) -> None:
        self._choose = choose
        self._connect_s = connect_s
        self.opened: list[Wire] = []

    async def open(self, endpoint: Endpoint, receiver: Receiver) -> Exchange:
        await asyncio.sleep(self._connect_s)
        exchange = Exchange(receiver)
        wire = Wire(exchange, self._choose(len(self.opened)))
        self.opened.append(wire)
        exchange.connection_made(wire)
        return exchange


async def refuse(endpoint: Endpoint, receiver: Receiver) -> Exchange:
    raise ExchangeFailed("refused", "no connection: refused")


def sse(body: object) -> bytes:
    return b"data: " + (body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n\n"


def text_event(text: str, **more: object) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": text}, **more}]})


def finish_event(reason: str = "length") -> bytes:
    return sse({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def usage_event(num_output: int, num_prompt: int = 7, **more: object) -> bytes:
    usage = {"prompt_tokens": num_prompt, "completion_tokens": num_output, **more}
    return sse({"choices": [], "usage": usage})


def answer(at_s: Sequence[float], *, num_output: int | None = None) -> list[tuple[float, bytes]]:
    """A whole stream with one event of text at each time; usage one token each, or `num_output`."""
    script = [(0.0, HEAD), *((when_s, text_event("x ")) for when_s in at_s)]
    tail = finish_event() + usage_event(len(at_s) if num_output is None else num_output) + sse(b"[DONE]")
    return [*script, (at_s[-1], tail)]


def record(
    index: int = 0, *, intended_s: float = 0.0, at_s: Sequence[float] = (1.0, 1.1, 1.2), **fields: Any
) -> Record:
    """A successful answer with text at these times (of the phase's clock)."""
    defaults: dict[str, Any] = {
        "sent_s": intended_s,
        "ready_s": intended_s - 0.1,
        "connect_s": 0.001,
        "finish_s": at_s[-1] if at_s else None,
        "end_s": at_s[-1] if at_s else intended_s + 1,
        "finish_reason": "length",
        "num_prompt": 10,
        "num_output": len(at_s),
        "has_done": True,
        "status": 200,
    }
    return Record(index, intended_s, pieces=tuple(Piece(t) for t in at_s), **{**defaults, **fields})


ABOUT = {
    "narrows": "0.0",
    "began": "2026-01-02T03:04:05+00:00",
    "target": {"url": "http://h:1", "model": "m<odel>", "route": "chat", "fields": {}, "serve": None},
    "workload": {"description": "40 prompts & more", "tokens_per_word": 1.25},
    "load": {"description": "open loop", "rates": [10.0], "concurrency": None, "seed": 0, "warmup": 0},
}


def records(factor: float = 1.0) -> list[Record]:
    """40 requests at 10 per second, TTFT 100 to 139 ms, 11 tokens 20 ms apart; times `factor` as long."""
    found = []
    for index in range(40):
        sent_s = index / 10
        first_s = sent_s + (0.100 + index / 1000) * factor
        found.append(
            record(
                index,
                intended_s=sent_s,
                at_s=[first_s + i * 0.02 * factor for i in range(11)],
                asked_output=11,
                server_ms={"ttft": (100 + index) * factor - 1, "tpot": 20.0 * factor},
            )
        )
    return found


def spoilt() -> list[Record]:
    """The same with a failure of each sort, an interrupted one, an answer without usage, and chunks of two
    tokens.
    """
    found = records()
    found[3] = record(
        3, intended_s=0.3, at_s=(), error="http", status=429, detail="queue full", num_output=None
    )
    found[4] = record(4, intended_s=0.4, at_s=(), error="timeout_first", detail="no end", num_output=None)
    found[5] = record(5, intended_s=0.5, at_s=(0.6, 0.7), error="interrupted", num_output=None)
    found[6] = record(6, intended_s=0.6, at_s=(0.7, 0.8), num_output=None, asked_output=11, has_done=False)
    found[7] = record(7, intended_s=0.7, at_s=(0.8, 0.9), num_output=4, asked_output=11)
    return found


def measured(some: list[Record], **limits: float) -> Measured:
    phase = Phase("10 requests/s", tuple(some), 4.0, 10.0, None, 40, (0.0001,) * 20)
    checks = cross_check(some, {}, {"narrows_generation_tokens_total": 440.0})
    return Measured(phase, summarize(phase, limits), judge(phase), checks)


def result(some: list[Record], **limits: float) -> Result:
    return Result(ABOUT, [measured(some, **limits)], ["a note"])
