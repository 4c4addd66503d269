"""Carries chunks from the engine's thread to one reader, in a thread or in an event loop.

The engine never waits: it appends, and wakes the reader only where one waits. What lies unread is bounded by
the request's max_tokens. No locks: append and then look for a waiter here, set the waiter and then look for
items there, so one of the two sees the other. Knows nothing of engines.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType

from narrows.engine.client import Chunk
from narrows.errors import InvalidRequest, NarrowsError

Item = Chunk | NarrowsError


class Mailbox:
    """Items on their way to one reader."""

    __slots__ = ("items", "waiter")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.waiter: asyncio.Future[None] | _Gate | None = None

    def put(self, item: Item) -> asyncio.Future[None] | _Gate | None:
        """Appends; returns the reader to wake, if one waits."""
        self.items.append(item)
        waiter, self.waiter = self.waiter, None
        return waiter


class _Gate:
    """Wakes a reader that waits in a thread."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self) -> None:
        self._lock.acquire()

    def open(self) -> None:
        self._lock.release()


class Wakeups:
    """The readers one step wakes: threads at once, each event loop with a single call at the end."""

    __slots__ = ("_by_loop",)

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, list[tuple[int, asyncio.Future[None]]]] = {}

    def add(self, request_id: int, waiter: asyncio.Future[None] | _Gate | None) -> None:
        if isinstance(waiter, _Gate):
            waiter.open()
        elif waiter is not None:
            self._by_loop.setdefault(waiter.get_loop(), []).append((request_id, waiter))

    def send(self) -> list[int]:
        """Wakes the loops. Returns the requests whose loop is closed: nobody will ever read them."""
        orphans: list[int] = []
        for loop, waiting in self._by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, [future for _, future in waiting])
            except RuntimeError:  # the only cause there is: the loop is closed
                orphans += [request_id for request_id, _ in waiting]
        return orphans


class MailboxStream:
    """The reader's end: a RequestStream. Dropping it unread aborts the request."""

    def __init__(self, request_id: int, mailbox: Mailbox, *, abort: Callable[[int], None]) -> None:
        self._request_id = request_id
        self._mailbox = mailbox
        self._abort = abort
        self._is_over = False

    @property
    def request_id(self) -> int:
        return self._request_id

    def abort(self) -> None:
        if not self._is_over:
            self._abort(self._request_id)

    def __iter__(self) -> MailboxStream:
        return self

    def __next__(self) -> Chunk:
        while not self._mailbox.items:
            if self._is_over:
                raise StopIteration
            gate = _Gate()
            if self._wait_with(gate):
                try:
                    gate.wait()
                except BaseException:  # Ctrl-C
                    self._leave()
                    raise
        return self._take()

    def __aiter__(self) -> MailboxStream:
        return self

    async def __anext__(self) -> Chunk:
        while not self._mailbox.items:
            if self._is_over:
                raise StopAsyncIteration
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._wait_with(future):
                try:
                    await future
                except BaseException:  # cancelled
                    self._leave()
                    raise
        return self._take()

    def __enter__(self) -> MailboxStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    async def __aenter__(self) -> MailboxStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def __del__(self) -> None:
        self.abort()

    def _wait_with(self, waiter: asyncio.Future[None] | _Gate) -> bool:
        """Announces the waiter; False where something has come in the meantime."""
        if self._mailbox.waiter is not None:
            raise InvalidRequest("this stream is being read already; a stream has one reader")
        self._mailbox.waiter = waiter
        if self._mailbox.items:
            self._mailbox.waiter = None
            return False
        return True

    def _leave(self) -> None:
        self._mailbox.waiter = None
        self.abort()

    def _take(self) -> Chunk:
        item = self._mailbox.items.popleft()
        if isinstance(item, Chunk):
            self._is_over = item.finish_reason is not None
            return item
        self._is_over = True
        raise item


def _resolve(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
