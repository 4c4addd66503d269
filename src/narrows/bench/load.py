"""Runs a plan against a server: open loop (times stand before the run begins) or closed loop (users who
wait).

In: Planned requests and a way to send one. Out: a Phase with a Record of every request that was sent. In an
open loop a slow server cannot slow the load down: requests leave when they were meant to, and their latency
counts from then (no coordinated omission).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from narrows.bench.clock import LagWatch
from narrows.bench.record import Record
from narrows.bench.workload import Planned

AHEAD_S = 0.2  # a connection is opened so much before its request is meant to leave
OnRecord = Callable[[Record], None]


class Sender(Protocol):
    """client.Client, or a test's."""

    async def send(self, planned: Planned, intended_s: float | None) -> Record: ...


@dataclass(frozen=True, slots=True)
class Phase:
    """What one stretch of load gave. Times in seconds from its start.

    `sending_s`: how long requests were meant to arrive (open loop) or users kept asking (closed loop).
    `offered_per_s`: None in a closed loop, where the server's speed decides.
    """

    name: str
    records: tuple[Record, ...]
    sending_s: float
    offered_per_s: float | None
    concurrency: int | None
    num_planned: int
    lags_s: tuple[float, ...] = ()
    was_stopped: bool = False


class Load:
    """One run of one plan. `stop` ends it early: what is under way is recorded as interrupted."""

    def __init__(
        self, make_sender: Callable[[float], Sender], *, stop: asyncio.Event, on_record: OnRecord
    ) -> None:
        self._make_sender = make_sender
        self._stop = stop
        self._on_record = on_record
        self._records: list[Record] = []

    async def open_loop(self, name: str, plan: Sequence[Planned], *, sending_s: float | None = None) -> Phase:
        """Every Planned has its `at_s`, ascending. `sending_s`: until when arrivals were drawn, where that is
        known; otherwise the last one's time and one mean gap.
        """
        times = [planned.at_s or 0.0 for planned in plan]
        mean_gap_s = times[-1] / (len(times) - 1) if len(times) > 1 else 1.0
        span_s = max(sending_s or times[-1] + mean_gap_s, 1e-9)
        loop = asyncio.get_running_loop()
        began_s = loop.time() + AHEAD_S
        sender = self._make_sender(began_s)
        tasks: list[asyncio.Task[None]] = []
        async with LagWatch() as watch:
            for planned, at_s in zip(plan, times, strict=True):
                if not await self._wait_until(began_s + at_s - AHEAD_S):
                    break
                tasks.append(asyncio.create_task(self._one(sender, planned, at_s)))
            await self._drain(tasks)
        if self._stop.is_set():
            span_s = min(span_s, max(loop.time() - began_s, 1e-9))
        offered = sum(at_s < span_s for at_s in times) / span_s
        return self._phase(name, span_s, offered, None, len(plan), watch)

    async def closed_loop(
        self, name: str, plan: Iterable[Planned], concurrency: int, *, duration_s: float | None = None
    ) -> Phase:
        """`concurrency` users, each sending the next request when its last is answered, until the plan is
        empty or `duration_s` is over.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        sender = self._make_sender(began_s)
        waiting = iter(plan)
        num_planned = 0

        async def user() -> None:
            nonlocal num_planned
            for planned in waiting:
                if self._stop.is_set() or (duration_s is not None and loop.time() - began_s >= duration_s):
                    return
                num_planned += 1
                await self._one(sender, planned, None)

        async with LagWatch() as watch:
            await self._drain([asyncio.create_task(user()) for _ in range(concurrency)])
        span_s = max(loop.time() - began_s, 1e-9)
        return self._phase(name, span_s, None, concurrency, num_planned, watch)

    async def _one(self, sender: Sender, planned: Planned, at_s: float | None) -> None:
        record = await sender.send(planned, at_s)
        self._records.append(record)
        self._on_record(record)
        if record.error == "interrupted" and not self._stop.is_set():
            raise asyncio.CancelledError  # not our stop: somebody ends everything, and this task with it

    async def _wait_until(self, when_s: float) -> bool:
        """False where the run was stopped first."""
        delay_s = when_s - asyncio.get_running_loop().time()
        if delay_s > 0:
            try:
                async with asyncio.timeout(delay_s):
                    await self._stop.wait()
            except TimeoutError:
                pass
        return not self._stop.is_set()

    async def _drain(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Waits for all; at a stop cancels all, which lets each write its record. An error of ours is
        raised.
        """
        stopped = asyncio.create_task(self._stop.wait())
        pending: set[asyncio.Task[None]] = set(tasks)
        try:
            while pending:
                done, _ = await asyncio.wait({*pending, stopped}, return_when=asyncio.FIRST_COMPLETED)
                pending -= done
                for task in done - {stopped}:
                    if not task.cancelled():
                        task.result()
                if stopped in done:
                    break
            for task in pending:
                task.cancel()
            for result in await asyncio.gather(*pending, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result
        finally:
            stopped.cancel()

    def _phase(
        self,
        name: str,
        sending_s: float,
        offered_per_s: float | None,
        concurrency: int | None,
        num_planned: int,
        watch: LagWatch,
    ) -> Phase:
        records = tuple(sorted(self._records, key=lambda record: record.index))
        self._records = []
        return Phase(
            name,
            records,
            sending_s,
            offered_per_s,
            concurrency,
            num_planned,
            tuple(watch.lags_s),
            self._stop.is_set(),
        )
