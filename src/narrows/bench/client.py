"""Sends one planned request at its time and writes down what came of it. Never raises for what a server does.

In: a Planned request and when it should leave. Out: a Record, also of a request that failed. Connections are
opened ahead of the intended time, one per request, as independent users would; the time that takes is
recorded, and counts only where it makes the request late.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from narrows.bench.answer import Answer
from narrows.bench.clock import sleep_until
from narrows.bench.exchange import Endpoint, Exchange, ExchangeFailed, Receiver, open_exchange
from narrows.bench.record import Piece, Record
from narrows.bench.workload import Planned

Route = Literal["chat", "completions"]
Open = Callable[[Endpoint, Receiver], Awaitable[Exchange]]
ROUTE_PATHS: dict[Route, str] = {"chat": "chat/completions", "completions": "completions"}


@dataclass(frozen=True, slots=True)
class Target:
    """A server and how to ask it. `fields`: sent with every request (sampling, stream options, --extra)."""

    endpoint: Endpoint
    base_path: str  # "/v1"
    model: str
    route: Route
    fields: Mapping[str, Any]
    timeout_s: float = 600.0

    @property
    def path(self) -> str:
        return f"{self.base_path}/{ROUTE_PATHS[self.route]}"

    def body(self, planned: Planned) -> bytes:
        prompt: dict[str, Any] = (
            {"messages": planned.prompt.messages} if self.route == "chat" else {"prompt": planned.prompt.text}
        )
        limits: dict[str, Any] = {} if planned.max_tokens is None else {"max_tokens": planned.max_tokens}
        fields = dict(self.fields)
        if fields.get("ignore_eos") is True and planned.max_tokens is None:
            del fields["ignore_eos"]  # an answer without an end and without a limit
        request = {"model": self.model, "stream": True, **prompt, **limits, **fields}
        return json.dumps(request, ensure_ascii=False).encode()


class Client:
    """Measures in seconds since `began_s` of the running loop's clock."""

    def __init__(self, target: Target, *, began_s: float, open_connection: Open = open_exchange) -> None:
        self._target = target
        self._began_s = began_s
        self._open = open_connection

    async def send(self, planned: Planned, intended_s: float | None) -> Record:
        """`intended_s`: seconds since `began_s`, or None for as soon as the connection is open (closed loop).

        Cancelling gives CancelledError before the request was sent, and a Record "interrupted" afterwards.
        """
        loop = asyncio.get_running_loop()
        body = self._target.body(planned)
        began_s = loop.time()
        answer = Answer()
        record = Record(
            planned.index,
            intended_s if intended_s is not None else began_s - self._began_s,
            asked_prompt=planned.num_prompt,
            asked_output=planned.max_tokens,
        )
        exchange: Exchange | None = None
        try:
            waits_s = 0.0 if intended_s is None else max(0.0, self._began_s + intended_s - began_s)
            async with asyncio.timeout_at(began_s + waits_s + self._target.timeout_s):
                exchange = await self._open(self._target.endpoint, answer)
                ready_s = loop.time()
                record = replace(record, connect_s=ready_s - began_s, ready_s=ready_s - self._began_s)
                if intended_s is None:
                    record = replace(record, intended_s=ready_s - self._began_s)
                else:
                    await sleep_until(self._began_s + intended_s)
                sent_s = exchange.send(self._target.endpoint, "POST", self._target.path, body)
                record = replace(record, sent_s=sent_s - self._began_s)
                end_s = await exchange.finished
            answer.close()
        except ExchangeFailed as error:
            end_s = loop.time()
            answer.fail(error.kind, str(error))
        except TimeoutError:
            end_s = loop.time()
            answer.fail(
                "timeout" if answer.pieces else "timeout_first", f"no end within {self._target.timeout_s:g} s"
            )
        except asyncio.CancelledError:
            if record.sent_s is None:
                raise
            end_s = loop.time()
            answer.fail("interrupted", "stopped by Ctrl-C")
        finally:
            if exchange is not None:
                exchange.close()
        return self._filled(record, answer, end_s)

    def _filled(self, record: Record, answer: Answer, end_s: float) -> Record:
        return replace(
            record,
            pieces=tuple(
                Piece(piece.at_s - self._began_s, piece.tokens, piece.token_s) for piece in answer.pieces
            ),
            answer_s=self._since(answer.answer_s),
            finish_s=self._since(answer.finish_s),
            end_s=end_s - self._began_s,
            finish_reason=answer.finish_reason,
            num_prompt=answer.num_prompt,
            num_output=answer.num_output,
            has_done=answer.has_done,
            error=answer.error,
            status=answer.status,
            detail=answer.detail,
            server_ms=answer.server_ms,
            retry_after_s=answer.retry_after_s,
        )

    def _since(self, at_s: float | None) -> float | None:
        return None if at_s is None else at_s - self._began_s


async def fetch(
    endpoint: Endpoint, method: str, path: str, *, body: bytes = b"", timeout_s: float = 10.0
) -> tuple[int, bytes]:
    """Status and body of a plain request. Raises ExchangeFailed."""
    whole = _Whole()
    exchange: Exchange | None = None
    try:
        async with asyncio.timeout(timeout_s):
            exchange = await open_exchange(endpoint, whole)
            exchange.send(endpoint, method, path, body)
            await exchange.finished
    except TimeoutError:
        raise ExchangeFailed(
            "timeout_first", f"no answer to {method} {path} within {timeout_s:g} s"
        ) from None
    finally:
        if exchange is not None:
            exchange.close()
    return whole.status, whole.body


class _Whole:
    """A Receiver that keeps everything."""

    def __init__(self) -> None:
        self.status, self.body = 0, b""
        self.is_complete = False

    def on_status(self, at_s: float, status: int, headers: Mapping[str, str]) -> None:
        self.status = status

    def on_body(self, at_s: float, data: bytes) -> None:
        self.body += data
