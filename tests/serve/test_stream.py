"""EventStream alone, over a connection made up of two functions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from narrows.serve.connection import STATE_KEY
from narrows.serve.stream import EventStream


class Connection:
    """Breaks with the event after `num_whole`; says so to `receive` only when `knows` is set."""

    def __init__(self, num_whole: int) -> None:
        self.num_whole = num_whole
        self.sent: list[bytes] = []
        self.knows = asyncio.Event()

    @property
    def scope(self) -> dict[str, object]:
        return {"type": "http", "state": {STATE_KEY: self.is_closing}}

    def is_closing(self) -> bool:
        return len(self.sent) > self.num_whole

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.sent.append(message["body"])

    async def receive(self) -> Message:
        await self.knows.wait()
        return {"type": "http.disconnect"}


class Events:
    """Numbers, of which every one is ready; after `num_ready` none comes, or `error`."""

    def __init__(self, num_ready: int, error: Exception | None = None) -> None:
        self.num_ready, self.error = num_ready, error
        self.has_ended = asyncio.Event()

    async def all(self) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(self.num_ready):
                yield b"%d" % number
            if self.error is not None:
                raise self.error
            await asyncio.Event().wait()
        finally:
            self.has_ended.set()


async def _run(connection: Connection, events: Events) -> None:
    stream = EventStream(events.all(), headers={}, ping_interval_s=0.01, send_timeout_s=30)
    response = asyncio.create_task(stream(connection.scope, connection.receive, connection.send))
    async with asyncio.timeout(10):
        await events.has_ended.wait()
        # As uvicorn does not know yet, the response must not look as if it had ended early.
        assert not response.done()
        connection.knows.set()
        await response


@pytest.mark.parametrize(
    "events",
    [lambda: Events(100), lambda: Events(4), lambda: Events(4, ValueError("too late to be told"))],
    ids=["many ready", "then silent", "then an error"],
)
def test_a_broken_connection_ends_the_events_before_uvicorn_knows_and_is_not_written_to(events) -> None:
    async def run() -> list[bytes]:
        connection = Connection(num_whole=3)
        await _run(connection, events())
        return connection.sent

    assert asyncio.run(run()) == [b"0", b"1", b"2", b"3"]
