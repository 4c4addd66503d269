"""Server-sent events over one connection, and the watch for clients that go away, fall silent or do not read.

In: an async iterator of encoded events. Out: ASGI messages. While there is nothing to say a comment is
sent, so that proxies keep the connection. Knows nothing of what the events hold.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from narrows.serve.connection import closing_check
from narrows.serve.problems import problem_of

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
DONE = b"data: [DONE]\n\n"
PING = b": waiting\n\n"


class ClientGone(Exception):
    """The client closed its connection; nobody reads an answer any more."""


def event(body: Mapping[str, object]) -> bytes:
    """One SSE event. Characters stay as they are: `ensure_ascii` would cost a CJK stream twice its bytes."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def until_disconnect(receive: Receive) -> None:
    """Returns when the client goes away. Only after the body was read; otherwise it would swallow it."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(work: Coroutine[Any, Any, Result], receive: Receive) -> Result:
    """The result of `work`; where the client leaves first, `work` is cancelled and ClientGone raised."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(until_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        await _cancel(task, gone)


class EventStream:
    """An ASGI response that sends `events` until they end or the client is gone. Always closes `events`."""

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        headers: Mapping[str, str],
        ping_interval_s: float,
        send_timeout_s: float,
    ) -> None:
        self._events = events
        self._headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",  # nginx would hold the events back
            **headers,
        }
        self._ping_interval_s = ping_interval_s
        self._send_timeout_s = send_timeout_s
        self._last_sent_s = 0.0
        self._send_began_s: float | None = None
        self._is_closing: Callable[[], bool] = lambda: False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._headers.items()]
        self._is_closing = closing_check(scope)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._last_sent_s = time.monotonic()
        sender = asyncio.create_task(self._send_all(send))
        gone = asyncio.create_task(until_disconnect(receive))
        try:
            await self._watch(sender, gone, send)
        finally:
            # Closing the events aborts the work behind them, whatever ended this response.
            await _cancel(sender)
            await self._events.aclose()
            if self._is_closing():
                # uvicorn takes a response that ends early for our fault, until it knows of the disconnect.
                await asyncio.wait({gone}, timeout=self._send_timeout_s)
            await _cancel(gone)

    async def _watch(self, sender: asyncio.Task[None], gone: asyncio.Task[None], send: Send) -> None:
        """Pings and timeouts live here, so that a token on its way to the client costs one `send` and no
        timer.
        """
        while True:
            await asyncio.wait(
                {sender, gone}, timeout=self._ping_interval_s, return_when=asyncio.FIRST_COMPLETED
            )
            now_s = time.monotonic()
            if sender.done():
                return sender.result()
            if gone.done() or self._is_closing():
                return None
            if self._send_began_s is not None:
                if now_s - self._send_began_s > self._send_timeout_s:
                    logger.warning("dropping a client that has read nothing for %g s", self._send_timeout_s)
                    return None
            elif now_s - self._last_sent_s >= 0.9 * self._ping_interval_s:
                with suppress(TimeoutError, ClientGone):
                    await asyncio.wait_for(self._send(send, PING), self._send_timeout_s)

    async def _send_all(self, send: Send) -> None:
        try:
            async for data in self._events:
                await self._send(send, data)
        except (OSError, ClientGone):  # the connection broke while writing
            return
        except Exception as error:
            # The status line is long gone: the error travels as an event, which OpenAI's clients raise.
            problem = problem_of(error)
            if problem.status >= 500:
                logger.exception("a stream failed: %s", problem.message)
            with suppress(OSError, ClientGone):
                await self._send(send, event(problem.body))
        if self._is_closing():
            return
        with suppress(OSError):
            await send({"type": "http.response.body", "body": DONE, "more_body": False})

    async def _send(self, send: Send, data: bytes) -> None:
        if self._is_closing():
            raise ClientGone
        self._send_began_s = time.monotonic()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._last_sent_s = time.monotonic()
        self._send_began_s = None


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    waiting: list[Awaitable[Any]] = []
    for task in tasks:
        task.cancel()
        waiting.append(task)
    await asyncio.gather(*waiting, return_exceptions=True)
