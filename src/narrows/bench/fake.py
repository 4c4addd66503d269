"""A scripted OpenAI-compatible server: it sends what it is told, when it is told, and writes down when it
did.

In: a Script for each request. Out: a stream over a real socket, faults included, and Stamps by the same
system-wide clock (CLOCK_MONOTONIC) as the client's. The bench is checked against it; it has no model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from narrows.bench.clock import sleep_until

Fault = Literal["close", "reset", "hang", "garbage", "bad_json", "bad_shape", "error_event", "no_finish"]
MODEL = "scripted"
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Script:
    """`chunks`: (seconds after the one before, tokens in it); the first counts from the request's arrival.

    `fault` strikes instead of chunk number `fault_at` (0: before any). `says_counts`: usage in every chunk.
    """

    chunks: tuple[tuple[float, int], ...] = ((0.01, 1), (0.01, 1), (0.01, 1))
    status: int = 200
    body: bytes = b""  # of an answer that is no stream
    content_type: str = "text/event-stream"
    has_usage: bool = True
    has_done: bool = True
    says_counts: bool = False
    finish_reason: str = "length"
    fault: Fault | None = None
    fault_at: int = 0
    timing: Mapping[str, float] | None = None  # of usage, as Narrows sends it
    prompt_tokens: int | None = None  # None: as many as words


@dataclass(slots=True)
class Stamps:
    """When a request was whole, and when each of its chunks was handed to the system. Seconds,
    loop.time().
    """

    request: dict[str, Any]
    arrived_s: float
    sent_s: list[float] = field(default_factory=list)
    was_left: bool = False  # the client went away first


@dataclass(slots=True)
class ScriptedServer:
    """`choose` gives the script of a request by its body and number. `refused_fields`: answered with 400, and
    named.
    """

    choose: Callable[[Mapping[str, Any], int], Script]
    refused_fields: tuple[str, ...] = ()
    names_refused: bool = True
    metrics: Callable[[], str] | None = None
    api_key: str | None = None
    max_model_len: int | None = None
    stamps: list[Stamps] = field(default_factory=list)
    url: str = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ScriptedServer]:
        """Listens on a free port of 127.0.0.1 while the context lasts."""
        tasks: set[asyncio.Task[None]] = set()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError):
                    await self._serve(reader, writer)
            finally:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()
                tasks.discard(task)

        server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path = head.split(" ", 2)[:2]
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        arrived_s = asyncio.get_running_loop().time()
        if self.api_key is not None and headers.get("authorization") != f"bearer {self.api_key}".lower():
            await self._plain(writer, 401, {"error": {"message": "wrong key"}})
        elif method == "GET":
            await self._get(writer, path)
        elif path.endswith("/completions"):
            await self._complete(reader, writer, path, json.loads(body), arrived_s)
        else:
            await self._plain(writer, 404, {"error": {"message": f"no route {path}"}})

    async def _get(self, writer: asyncio.StreamWriter, path: str) -> None:
        if path == "/v1/models":
            card = {"id": MODEL, "max_model_len": self.max_model_len}
            await self._plain(writer, 200, {"object": "list", "data": [card]})
        elif path == "/metrics" and self.metrics is not None:
            await self._plain(writer, 200, self.metrics().encode())
        elif path == "/stamps":
            found = [
                {"request": one.request, "arrived_s": one.arrived_s, "sent_s": one.sent_s}
                for one in self.stamps
            ]
            await self._plain(writer, 200, {"stamps": found})
        else:
            await self._plain(writer, 404, {"error": {"message": f"no route {path}"}})

    async def _plain(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        body: Mapping[str, Any] | bytes,
        content_type: str = "",
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = content_type or "application/json"
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()

    async def _complete(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        path: str,
        request: dict[str, Any],
        arrived_s: float,
    ) -> None:
        refused = next((name for name in self.refused_fields if name in request), None)
        if refused is not None:
            await self._plain(
                writer, 400, {"error": {"message": f"unknown field {refused if self.names_refused else ''}"}}
            )
            return
        script = self.choose(request, len(self.stamps))
        stamps = Stamps(request, arrived_s)
        self.stamps.append(stamps)
        if script.status != 200 or not script.content_type.startswith("text/event-stream"):
            await self._plain(writer, script.status, script.body, script.content_type)
            return
        stream = _Stream(writer, script, stamps, is_chat=path.endswith("/chat/completions"))
        sending = asyncio.create_task(stream.send())
        leaving = asyncio.create_task(reader.read(1))
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        stamps.was_left = not sending.done()
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)


class _Stream:
    """One streamed answer."""

    def __init__(
        self, writer: asyncio.StreamWriter, script: Script, stamps: Stamps, *, is_chat: bool
    ) -> None:
        self._writer = writer
        self._script = script
        self._stamps = stamps
        self._is_chat = is_chat
        self._num_tokens = 0

    async def send(self) -> None:
        script = self._script
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        if script.fault is not None and script.fault_at == 0 and await self._strike(script.fault, head):
            return
        self._writer.write(head)
        if self._is_chat:
            self._event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        due_s = self._stamps.arrived_s
        for number, (gap_s, tokens) in enumerate(script.chunks):
            due_s += gap_s
            await sleep_until(due_s)
            if (
                script.fault is not None
                and number == script.fault_at > 0
                and await self._strike(script.fault, b"")
            ):
                return
            self._num_tokens += tokens
            self._event(self._chunk("".join(f"w{i} " for i in range(tokens))))
            self._stamps.sent_s.append(asyncio.get_running_loop().time())
        if script.fault != "no_finish":
            self._event(self._chunk(None, finish_reason=script.finish_reason))
            if script.has_usage:
                self._event({"choices": [], "usage": self._usage()})
        if script.has_done:
            self._raw(b"data: [DONE]\n\n")
        self._writer.write(LAST_CHUNK)
        await self._writer.drain()

    async def _strike(self, fault: Fault, head: bytes) -> bool:
        """True where the answer ends here."""
        if fault in ("close", "reset", "hang"):
            self._writer.write(head if fault == "hang" else b"")
            if fault == "hang":
                await asyncio.sleep(3600)
            if fault == "reset":
                self._writer.transport.abort()
            self._writer.close()
            return True
        self._writer.write(head)
        if fault == "garbage":
            self._raw(b"<html>502 Bad Gateway</html>\n\n")
        elif fault == "bad_json":
            self._raw(b'data: {"choices": [\n\n')
        elif fault == "bad_shape":
            self._raw(b'data: {"choices": [{"delta": {"content": {"a": 1}}}, 7]}\n\n')
        elif fault == "error_event":
            self._raw(b'data: {"error": {"message": "out of memory", "code": 500}}\n\n')
        else:
            return False
        self._writer.write(LAST_CHUNK)
        await self._writer.drain()
        return True

    def _chunk(self, text: str | None, finish_reason: str | None = None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
        if self._is_chat:
            choice["delta"] = {} if text is None else {"content": text}
        else:
            choice["text"] = text or ""
        chunk: dict[str, Any] = {"choices": [choice]}
        if self._script.says_counts:
            chunk["usage"] = self._usage()
        return chunk

    def _usage(self) -> dict[str, Any]:
        request = self._stamps.request
        asked = request.get("prompt") or " ".join(m["content"] for m in request.get("messages", []))
        prompt_tokens = self._script.prompt_tokens
        usage: dict[str, Any] = {
            "prompt_tokens": len(asked.split()) + 5 if prompt_tokens is None else prompt_tokens,
            "completion_tokens": self._num_tokens,
        }
        return usage if self._script.timing is None else {**usage, "timing": dict(self._script.timing)}

    def _event(self, body: Mapping[str, Any]) -> None:
        self._raw(b"data: " + json.dumps(body).encode() + b"\n\n")

    def _raw(self, data: bytes) -> None:
        self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
