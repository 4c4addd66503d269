"""The client's clock: an event loop that wakes when asked, and a watch on how late it wakes.

All times of a bench are `loop.time()` (CLOCK_MONOTONIC). A stock loop sleeps in whole milliseconds, rounded
up: every request would be sent up to a millisecond late. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import select
import selectors
from contextlib import suppress

LAG_PERIOD_S = 0.05

if hasattr(selectors, "EpollSelector"):

    class FineSelector(selectors.EpollSelector):
        """epoll_wait rounds up to whole milliseconds; select() on epoll's own descriptor does not."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                select.select([self.fileno()], [], [], timeout)
                timeout = 0.0
            return super().select(timeout)

else:  # kqueue and others keep fractions of a millisecond

    class FineSelector(selectors.DefaultSelector):  # type: ignore[no-redef]
        """The system's own."""


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are exact to the scheduler's own delay, some 0.1 ms."""
    return asyncio.SelectorEventLoop(FineSelector())


async def sleep_until(when_s: float) -> None:
    """Returns at `when_s` of the running loop's clock, at once where that has passed."""
    delay_s = when_s - asyncio.get_running_loop().time()
    if delay_s > 0:
        await asyncio.sleep(delay_s)


class LagWatch:
    """How late this process woke, sampled while `async with` lasts: what it could not have seen sooner.

    `lags_s`: one per sample, not negative. A client that is short of CPU stamps everything late by as much.
    """

    def __init__(self) -> None:
        self.lags_s: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LagWatch:
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + LAG_PERIOD_S
            await asyncio.sleep(LAG_PERIOD_S)
            self.lags_s.append(max(0.0, loop.time() - due_s))
